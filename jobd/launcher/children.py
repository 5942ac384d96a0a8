"""Makes one child process: fork, then exec, and an honest word about what went wrong in between.

Standard library only. The forking process has one thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
from dataclasses import dataclass
from typing import Final, NoReturn

from jobd.launcher.terminal import open_terminal, take_control

PIPE_SIZE: Final = 256 * 1024
"""Wanted capacity of a pipe: what a job can write ahead of us. Less is fine (pipe(7) limits it for each user)."""
F_SETPIPE_SZ: Final = 1031
REPORT: Final = 3
UNCHANGEABLE: Final = {signal.SIGKILL, signal.SIGSTOP}
FIRST_IMPOSSIBLE: Final = 2**30
"""A descriptor that no process has; close_range(2) does not mind."""


@dataclass
class Child:
    """A process that was forked and has not said yet whether it could execute its program.

    Attributes:
        out, err: the reading ends of its stdout and stderr. With a terminal, "out" is that of a pipe into which the
            server carries what comes from the terminal, and "err" ends at once.
        stdin: what it is: "none", "data", "pipe", "closed" (a pipe that was) or "terminal".
        near: the writing end of the pipe, or the near side of the terminal; -1 when there is none.
        report: becomes readable when it has executed (at its end) or could not ("stage errno").
    """

    pid: int
    out: int
    err: int
    report: int
    stdin: str = "none"
    near: int = -1

    def failure(self) -> tuple[str, int] | None:
        """Why it could not execute its program (stage, errno), or None when it did. Waits for ``report``."""
        said = os.read(self.report, 64)
        os.close(self.report)
        if not said:
            return None
        stage, _, number = said.decode().partition(" ")
        return stage, int(number)

    def fds(self, executed: bool) -> list[int]:
        """The descriptors that are open."""
        held = [self.out, self.err] if executed else [self.out, self.err, self.report]
        return held if self.near < 0 else [*held, self.near]

    def close_stdin(self) -> None:
        """Let go of the pipe of its stdin, for ever."""
        if self.stdin == "pipe":
            os.close(self.near)
            self.stdin, self.near = "closed", -1

    def close(self) -> None:
        """Let go of the pipes, and of the terminal."""
        for fd in self.fds(executed=True):
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Program:
    """What a child is to become.

    Attributes:
        enter: files into which it writes "0" first: cgroup.procs of the groups that are to hold it.
        limits: resource limits (getrlimit(2)), by number: soft and hard.
        nice: how much nicer than we are.
        umask: as umask(2).
        identity: user, group and supplementary groups that it runs as; ours when None.
        stdin: "none" (/dev/null), "data" (the descriptor ``given``), "pipe" or "terminal".
        size: rows and columns of the terminal.
    """

    argv: list[str]
    env: dict[str, str]
    cwd: str
    enter: list[str]
    limits: dict[int, tuple[int, int]]
    nice: int
    umask: int
    identity: tuple[int, int, list[int]] | None
    stdin: str = "none"
    size: tuple[int, int] = (0, 0)
    given: int = -1


def spawn(program: Program) -> Child:
    """Fork a child that leads a session of its own and executes a program.

    Raises:
        OSError: there are no more processes or descriptors; nothing is left behind.
    """
    with contextlib.ExitStack() as opened, contextlib.ExitStack() as theirs:

        def pipe() -> tuple[int, int]:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            opened.callback(os.close, reading)
            theirs.callback(os.close, writing)
            return reading, writing

        (out, out_job), (err, err_job), (report, reporting) = pipe(), pipe(), pipe()
        _enlarge(out)
        _enlarge(err)
        near, stdin = -1, program.given
        if program.stdin == "pipe":
            stdin, near = os.pipe2(os.O_CLOEXEC)
            _enlarge(near)
            os.set_blocking(near, False)
        elif program.stdin == "terminal":
            near, stdin = open_terminal(*program.size)
            out_job = err_job = stdin
        if near >= 0:
            opened.callback(os.close, near)
            theirs.callback(os.close, stdin)
        pid = os.fork()
        if pid == 0:
            _become(program, stdin, out_job, err_job, reporting)
        opened.pop_all()
        return Child(pid, out, err, report, program.stdin, near)


def _enlarge(pipe: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, F_SETPIPE_SZ, PIPE_SIZE)


def _give_streams(uid: int, gid: int) -> None:
    """Let them be opened as /dev/stdout and so on by the one that they are for; /dev/null stays everybody's."""
    null = os.stat(os.devnull)  # noqa: PTH116 # pathlib is large, and this is all it would do
    for fd in (0, 1, 2):
        if not os.path.samestat(os.fstat(fd), null):
            os.fchown(fd, uid, gid)


def _become(program: Program, stdin: int, out: int, err: int, report: int) -> NoReturn:
    """In the child: become the program, or tell why not. Never returns, whatever happens."""
    stage = "exec"
    try:
        os.setsid()
        if program.stdin == "terminal":
            take_control(stdin)
        signal.set_wakeup_fd(-1)
        # Python ignores some, and so may whoever started us (nohup, a shell's &): a program expects them all as usual.
        for signum in signal.valid_signals() - UNCHANGEABLE:
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.umask(program.umask)
        os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) if stdin < 0 else stdin, 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.dup2(report, REPORT, inheritable=False)
        report = REPORT
        # Whatever we were given ourselves, and whatever a mistake of ours left open, is not for a job to have.
        os.closerange(REPORT + 1, FIRST_IMPOSSIBLE)
        stage = "contain"
        for entrance in program.enter:
            fd = os.open(entrance, os.O_WRONLY | os.O_CLOEXEC)
            os.write(fd, b"0")
            os.close(fd)
        stage = "limits"
        for number, limit in program.limits.items():  # only now: our own descriptors may be beyond it
            resource.setrlimit(number, limit)
        os.nice(program.nice)
        if program.identity:
            uid, gid, groups = program.identity
            stage = "streams"
            _give_streams(uid, gid)
            stage = "groups"
            os.setgroups(groups)
            stage = "group"
            os.setresgid(gid, gid, gid)
            stage = "user"
            os.setresuid(uid, uid, uid)  # the last one: it takes the right to any of this, and all capabilities
        stage = "cwd"
        os.chdir(program.cwd)
        stage = "exec"
        os.execvpe(program.argv[0], program.argv, program.env)  # noqa: S606 # no shell is what we want
    except OSError as exc:
        os.write(report, f"{stage} {exc.errno}".encode())
    except BaseException:  # noqa: BLE001 # a child that is no program yet must not run on as a second launcher
        os.write(report, f"{stage} 0".encode())
    finally:
        os._exit(127)
