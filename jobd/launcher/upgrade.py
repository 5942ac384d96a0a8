"""Becoming a new launcher without ceasing to be the same process. Standard library only."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from jobd.launcher import protocol

STATE_ENVIRONMENT: Final = "JOBD_LAUNCHER_STATE"
SIGNALS: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Those that a launcher acts on."""


TRIAL: Final = (
    "import sys, jobd.launcher.launcher, jobd.server; getattr(jobd.server, 'try_out', lambda _: None)(sys.argv[1:])"
)
"""What is to succeed before a server is left for the next one. (An older one has no trial of its settings.)"""
SERVER: Final = "jobd.server"


def problem(launcher: Sequence[str], command: Sequence[str], environment: Mapping[str, str]) -> str:
    """What is wrong with the code that is installed now, or with what it would be told to use; "" if it would start.

    Args:
        command: what the server would be started with.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, writing, 2)]
    python = launcher[: launcher.index("-m")]  # with its options: what it would find is what counts
    told = command[command.index(SERVER) + 1 :] if SERVER in command else ()
    trial = [*python, "-c", TRIAL, *told]
    try:
        pid = os.posix_spawn(trial[0], trial, environment, file_actions=actions)
    except OSError as exc:
        os.close(reading)
        return exc.strerror or str(exc)
    finally:
        os.close(writing)
    with os.fdopen(reading, "r", errors="replace") as said:
        lines = said.read().strip().splitlines()
    _, status = os.waitpid(pid, 0)
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
