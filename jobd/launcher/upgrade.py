"""Becoming a new launcher without ceasing to be the same process. Standard library only."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from jobd.launcher import protocol

STATE_ENVIRONMENT: Final = "JOBD_LAUNCHER_STATE"
SIGNALS: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Those that a launcher acts on."""


LOADED: Final = "import sys, jobd.launcher.launcher, jobd.server"
TRIAL: Final = f"{LOADED}; getattr(jobd.server, 'try_out', lambda _: None)(sys.argv[1:])"
"""What is to succeed before a server is left for the next one. (An older one has no trial of its settings.)"""
SERVER: Final = "jobd.server"
MAX_SAID: Final = 64 * 1024


PATIENCE: Final = 120.0
"""Seconds that it may take. It loads everything, which on a slow machine takes most of a minute."""


class Trial:
    """Whether a server of what is installed now would start. A child of its own: to load all of it takes a while, in
    which the launcher has other things to hear.

    Attributes:
        pid: whoever reaps it asks for the :meth:`problem`.
        due: when it has taken too long (``time.monotonic``), and is to be killed.
    """

    def __init__(self, launcher: Sequence[str], command: Sequence[str], environment: Mapping[str, str]) -> None:
        """
        Args:
            command: what the server would be started with.

        Raises:
            OSError: the interpreter cannot be executed.
        """
        python = launcher[: launcher.index("-m")]  # with its options: what it would find is what counts
        # Of a program of somebody else's, that starts servers in its own way, the settings are not known.
        told = [TRIAL, *command[command.index(SERVER) + 1 :]] if SERVER in command else [LOADED]
        self._said = os.memfd_create("jobd-trial", os.MFD_CLOEXEC)
        try:
            actions = [(os.POSIX_SPAWN_DUP2, self._said, 2)]
            self.pid = os.posix_spawn(python[0], [*python, "-c", *told], environment, file_actions=actions)
        except OSError:
            os.close(self._said)
            raise
        self.due: float | None = time.monotonic() + PATIENCE

    def kill(self) -> None:
        """It has taken too long. Only as long as it was not reaped."""
        self.due = None
        os.kill(self.pid, signal.SIGKILL)

    def abandon(self) -> None:
        """Nobody will ask for the problem. Only as long as it was not reaped."""
        self.kill()
        os.close(self._said)

    def problem(self, status: int) -> str:
        """What is wrong with the code, or with what it would be told to use; "" when a server would start. Asked once.

        Args:
            status: the child's wait status.
        """
        with os.fdopen(self._said, "rb") as said:
            said.seek(0)
            lines = said.read(MAX_SAID).decode(errors="replace").strip().splitlines()
        if self.due is None:
            return f"that was not known after {PATIENCE:g} s"
        return "" if status == 0 else (lines or ["it ends at once"])[-1]


def execute_anew(
    program: list[str], environment: Mapping[str, str], state: protocol.Message, held: Iterable[int]
) -> OSError:
    """Execute ``program`` in place of this one, with ``state`` for :func:`inherited` and ``held`` left open.

    Returns only when that could not be done, with the reason; then nothing has changed.
    """
    memfd = protocol.as_memfd(state)
    fds = [memfd, *held]
    try:
        for fd in fds:
            os.set_inheritable(fd, True)
        # A signal that comes before the new program is ready for it waits, and does not end it, and all jobs' parent.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        os.execve(program[0], program, {**environment, STATE_ENVIRONMENT: str(memfd)})  # noqa: S606 # ourselves
    except OSError as exc:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        for fd in fds:
            os.set_inheritable(fd, False)
        os.close(memfd)
        return exc


def inherited() -> protocol.Message | None:
    """The state that this program was executed anew with, if it was."""
    memfd = os.environ.pop(STATE_ENVIRONMENT, None)
    return protocol.from_memfd(int(memfd)) if memfd else None
