"""Makes one child process: fork, then exec, and an honest word about what went wrong in between.

Standard library only. The forking process has one thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from dataclasses import dataclass
from typing import Final

from jobd.launcher import become, protocol, sandboxed
from jobd.launcher.fork import fork, ways_into
from jobd.launcher.program import Program, Signals, last_steps
from jobd.launcher.terminal import open_terminal

PIPE_SIZE: Final = 256 * 1024
"""Wanted capacity of a pipe: what a job can write ahead of us. Less is fine (pipe(7) limits it for each user)."""
F_SETPIPE_SZ: Final = 1031
MAX_SAID: Final = 400
with open(become.__file__, encoding="utf-8") as _file:  # noqa: PTH123 # pathlib is large, and this is all it would do
    SOURCE: Final = _file.read()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a child did not execute its program.

    Attributes:
        stage: the step that failed.
        said: what came on its stderr, if it was not its program's.
    """

    stage: str
    errno: int
    said: str = ""


EXECUTED: Final = Failure("", 0)
"""It did."""


@dataclass
class Child:
    """A process that was forked and has not said yet whether it could execute its program.

    Attributes:
        pid: with a sandbox, of the process that makes it and waits outside for the job's end.
        out, err: the reading ends of its stdout and stderr. With a terminal, "out" is that of a pipe into which the
            server carries what comes from the terminal, and "err" ends at once.
        report: becomes readable when there is something for :meth:`hear`.
        stdin: what it is: "none", "data", "pipe", "closed" (a pipe that was) or "terminal".
        near: the writing end of the pipe, or the near side of the terminal; -1 when there is none.
        main, main_pid: with a sandbox, a pidfd of the job's process inside, and its pid out here, once it is there.
    """

    pid: int
    out: int
    err: int
    report: int
    stdin: str = "none"
    near: int = -1
    sandboxed: bool = False
    main: int = -1
    main_pid: int = -1

    def hear(self) -> Failure | None:
        """What comes over ``report``: that it has executed, or why not, or None as long as neither is known.
        Waits for ``report``."""
        said = sandboxed.receive(self.report) if self.sandboxed else (os.read(self.report, 64), 0)
        if said[0] == become.INSIDE:
            try:
                self.main, self.main_pid = (
                    os.pidfd_open(said[1]),
                    said[1],
                )  # it waits for our answer: the pid is its own
            except OSError as exc:
                return Failure("fork", exc.errno or 0)  # it ends when it hears that nobody answers
            sandboxed.go_on(self.report)
            return None
        if said[0]:
            stage, _, number = said[0].decode().partition(" ")
            return Failure(stage, int(number))
        if self.sandboxed and self.main < 0:
            return Failure("isolate", 0, self._complaint())
        return EXECUTED

    def _complaint(self) -> str:
        """What whoever was to make the sandbox said instead of doing so."""
        stderr = self.near if self.stdin == "terminal" else self.err
        os.set_blocking(stderr, False)
        with contextlib.suppress(OSError):  # nothing; and of a terminal that is EIO, since nobody has it any more
            return os.read(stderr, MAX_SAID).decode(errors="replace").strip()
        return ""

    def pidfd(self) -> int:
        """A pidfd of the job's process, which has not been reaped."""
        return os.dup(self.main) if self.main >= 0 else os.pidfd_open(self.pid)

    def signal_main(self, signum: int, *, reaped: bool) -> None:
        """Send a signal to the job's process alone, if it is still there."""
        if reaped:
            return
        pidfd = self.pidfd()
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signum)
        finally:
            os.close(pidfd)

    def status(self, status: int) -> int:
        """The wait status of the job's process, given that of the child."""
        known = sandboxed.exit_status(self.main) if self.main >= 0 else None
        return status if known is None else known

    def fds(self, executed: bool) -> list[int]:
        """The descriptors that are open."""
        held = [self.out, self.err] if executed else [self.out, self.err, self.report]
        return [*held, *(fd for fd in (self.near, self.main) if fd >= 0)]

    def close_stdin(self) -> None:
        """Let go of the pipe of its stdin, for ever."""
        if self.stdin == "pipe":
            os.close(self.near)
            self.stdin, self.near = "closed", -1

    def close(self) -> None:
        """Let go of the pipes, and of the terminal."""
        for fd in self.fds(executed=True):
            os.close(fd)


def spawn(program: Program) -> Child:
    """Fork a child that leads a session of its own and executes a program.

    Raises:
        OSError: there are no more processes or descriptors; nothing is left behind.
    """
    ours: list[int] = []
    theirs: list[int] = []
    try:
        child = _spawn(program, ours, theirs)
    except BaseException:
        protocol.close_all(ours)
        raise
    finally:
        protocol.close_all(theirs)
    return child


def _spawn(program: Program, ours: list[int], theirs: list[int]) -> Child:
    """As :func:`spawn`; the descriptors that it makes are added to those that are to be closed when it fails, and those
    that are to be closed here in any case."""

    def take(reading: int, writing: int) -> tuple[int, int]:
        ours.append(reading)
        theirs.append(writing)
        return reading, writing

    out, out_job = take(*os.pipe2(os.O_CLOEXEC))
    err, err_job = take(*os.pipe2(os.O_CLOEXEC))
    report, reporting = take(*(sandboxed.channel() if program.sandbox else os.pipe2(os.O_CLOEXEC)))
    spec = _spec_for_inside(program) if program.sandbox else -1
    if spec >= 0:
        theirs.append(spec)
    _enlarge(out)
    _enlarge(err)
    near, stdin = -1, program.given
    if program.stdin == "none":
        stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        theirs.append(stdin)
    elif program.stdin == "pipe":
        stdin, near = os.pipe2(os.O_CLOEXEC)
        take(near, stdin)
        _enlarge(near)
        os.set_blocking(near, False)
    elif program.stdin == "terminal":
        near, stdin = take(*open_terminal(*program.size))
        out_job = err_job = stdin
    group, instead, others = ways_into(program.enter)
    if group >= 0:
        theirs.append(group)
    signals = Signals.now()
    pid, ready = fork(group)
    if pid == 0:
        last_steps(program, (stdin, out_job, err_job), reporting, spec, signals, others, None if ready else instead)
    return Child(pid, out, err, report, program.stdin, near, sandboxed=bool(program.sandbox))


def _enlarge(pipe: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, F_SETPIPE_SZ, PIPE_SIZE)


def _spec_for_inside(program: Program) -> int:
    """What is left to be done inside the sandbox. The environment goes this way too: what makes the sandbox is not to
    mind it (LD_PRELOAD)."""
    names = ("argv", "env", "cwd", "limits", "drop_capabilities")
    spec = protocol.as_memfd({**{name: getattr(program, name) for name in names}, "source": SOURCE})
    os.lseek(spec, 0, os.SEEK_SET)
    return spec
