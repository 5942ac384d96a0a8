"""The front: the process that was started as ``jobd``, and that whoever started it watches.

It starts the launcher, passes signals on to it, tells systemd (if that started it) how the server is, and ends with
the server's exit code. It holds nothing that is needed: when an orderly end leaves jobs, it goes and the launcher
stays. The next front finds that launcher, through the server that it had started in vain, and is served by it from then
on.

Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from typing import Final

from jobd.launcher import protocol, signals
from jobd.launcher.console import say
from jobd.launcher.systemd import Systemd

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PATIENCE: Final = 30.0
"""Seconds that a launcher found in the state directory has to answer. It answers nobody while it executes itself anew,
which on a slow machine takes more than 10 s."""
EXIT_REFUSED: Final = 2
EXIT_LAUNCHER_LOST: Final = 1


class Front:
    """``run`` is its life."""

    def __init__(self, command: list[str], launcher: list[str], systemd: Systemd) -> None:
        """
        Args:
            command: what the server is started with.
            launcher: what the launcher is started with, but for its socket.
            systemd: who started this process, perhaps.
        """
        self._command = command
        self._launcher = launcher
        self._systemd = systemd
        self._next_question = 0.0
        self._socket: socket.socket | None = None
        self._patience: float | None = None
        self._where = ""  # the state directory and the pid of who has it, once we were sent there
        self._passed: deque[int] = deque(maxlen=8)  # the last ones: a launcher that we are sent to is to hear them too

    def run(self) -> int:
        """Serve until the server has ended for good; returns its exit code."""
        woken, waking = signals.read_from_now_on((*SIGNALS, signal.SIGCHLD))
        with woken, waking:
            self._ask(self._start_launcher())
            try:
                return self._loop(woken)
            finally:
                signal.set_wakeup_fd(-1)

    def _loop(self, woken: socket.socket) -> int:
        while True:
            assert self._socket
            ready, _, _ = select.select([self._socket, woken], [], [], self._wait())
            if not ready and self._patience is not None:
                return _refuse(f"{self._where}, which does not answer; see what keeps it, or choose another --state")
            if woken in ready:
                for signum in woken.recv(4096):
                    self._signalled(signum)
            if self._socket in ready:
                code = self._hear()
                if code is not None:
                    return code
            self._ask_whether_it_lives()

    def _wait(self) -> float | None:
        if self._patience is None and self._systemd.pulse is not None:
            return max(0.0, self._next_question - time.monotonic())
        return self._patience

    def _ask_whether_it_lives(self) -> None:
        """When it is time: the server's answer, and nothing else, is what systemd's watchdog is given."""
        if self._patience is None and self._systemd.pulse is not None and time.monotonic() >= self._next_question:
            self._next_question = time.monotonic() + self._systemd.pulse / 2
            self._tell({"op": "alive"})

    def _start_launcher(self) -> socket.socket:
        ours, theirs = protocol.pair()
        with theirs:
            theirs.set_inheritable(True)
            command = [*self._launcher, str(theirs.fileno())]
            # A session of its own: what a terminal sends reaches us alone, and we pass it on once.
            os.posix_spawn(command[0], command, os.environ, setsid=True)
        return ours

    def _knock(self, path: str, holder: str, sock: socket.socket) -> None:
        """Ask another launcher; one that does not answer is not to get hold of what we write to."""
        if self._socket:
            self._socket.close()
        self._socket, self._patience = sock, PATIENCE
        self._where = protocol.held_by(path, holder)
        self._tell({"op": "knock"})

    def _ask(self, sock: socket.socket) -> None:
        """Be served by the launcher at the other end."""
        self._socket, self._patience = sock, None
        wish = {"command": self._command, "launcher": self._launcher, "env": dict(os.environ), "cwd": _directory()}
        given = [] if self._systemd.listener is None else [self._systemd.listener]
        memfd = protocol.as_memfd(wish)
        self._tell({"op": "serve"}, [memfd, 1, 2, *given])
        os.close(memfd)
        for signum in self._passed:
            self._tell({"op": "signal", "signal": signum})

    def _tell(self, message: protocol.Message, fds: list[int] | None = None) -> None:
        assert self._socket
        with contextlib.suppress(OSError):  # it has ended: reading tells
            protocol.send(self._socket, message, fds)

    def _signalled(self, signum: int) -> None:
        if signum == signal.SIGCHLD:
            with contextlib.suppress(ChildProcessError):  # as process 1 of a container, orphans are ours
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
        else:
            self._passed.append(signum)
            if self._patience is None:
                self._tell({"op": "signal", "signal": signum})

    def _hear(self) -> int | None:
        """One message; the exit code, when it is the end."""
        assert self._socket
        try:
            heard = protocol.receive(self._socket)
        except ConnectionError:
            heard = None
        if heard is None:
            say("the launcher has ended; its server sees the jobs out, and takes no new ones")
            return EXIT_LAUNCHER_LOST
        message, fds = heard
        match message["op"]:
            case "serving" if self._patience is not None:
                if self._systemd.listener is not None and message.get("version", 0) < protocol.LISTENS:
                    return _refuse(f"{self._where}, which is too old to take systemd's socket: 'jobd upgrade', first")
                self._ask(self._socket)
            case "elsewhere":
                self._knock(message["path"], message["pid"], socket.socket(fileno=fds[0]))
            case "state":
                self._systemd.state(message["state"], message["said"])
            case "alive":
                self._systemd.lives()
            case "busy":
                return _refuse(f"{self._where}; stop that one, or choose another --state")
            case "ended":
                return int(message["code"])
        return None


def _directory() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 # a text is wanted
    except OSError:  # it was removed
        return "/"


def _fill_gaps() -> None:
    """See that 0, 1 and 2 are open: nothing else may get these numbers, and the server is to have something there."""
    while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def _refuse(why: str) -> int:
    say(why)
    return EXIT_REFUSED


def main(arguments: list[str], server: str = "jobd.server") -> int:
    """Run a server with these arguments, under a launcher; returns the exit code.

    Args:
        server: the module that is the server's program.
    """
    _fill_gaps()
    # Only if we were ourselves found in the present directory (python -m jobd) is anything else looked for there.
    python = [sys.executable] if sys.path[0] == _directory() else [sys.executable, "-P"]
    systemd = Systemd(os.environ)
    if systemd.problem:
        return _refuse(systemd.problem)
    return Front([*python, "-m", server, *arguments], [*python, "-m", "jobd.launcher"], systemd).run()
