"""Makes one child process: fork, then exec, and an honest word about what went wrong in between.

Standard library only. The forking process has one thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

from jobd.launcher import become, protocol, sandboxed
from jobd.launcher.become import REPORT, SPEC
from jobd.launcher.terminal import open_terminal, take_control

PIPE_SIZE: Final = 256 * 1024
"""Wanted capacity of a pipe: what a job can write ahead of us. Less is fine (pipe(7) limits it for each user)."""
F_SETPIPE_SZ: Final = 1031
FIRST_IMPOSSIBLE: Final = 2**30
"""A descriptor that no process has; close_range(2) does not mind."""
MAX_SAID: Final = 400
KERNEL: Final = become.kernel()
INTERPRETER: Final = (os.path.realpath(sys.executable), "-I", "-S", "-B", "-c")  # outside of any environment
ENTRY: Final = f"import os, json; spec = json.load(os.fdopen({SPEC})); exec(spec['source']); inside(spec)"
"""What is executed inside a sandbox first; the rest comes in a memfd, since everybody sees a command."""
SOURCE: Final = Path(become.__file__).read_text()


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
        main: with a sandbox, a pidfd of the job's process inside, once it is there.
    """

    pid: int
    out: int
    err: int
    report: int
    stdin: str = "none"
    near: int = -1
    sandboxed: bool = False
    main: int = -1

    def hear(self) -> Failure | None:
        """What comes over ``report``: that it has executed, or why not, or None as long as neither is known.
        Waits for ``report``."""
        said = sandboxed.receive(self.report) if self.sandboxed else (os.read(self.report, 64), 0)
        if said[0] == become.INSIDE:
            try:
                self.main = os.pidfd_open(said[1])  # it waits for our answer: the pid is its own
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
    io_priority: int = 0
    no_new_privileges: bool = False
    drop_capabilities: bool = False
    sandbox: list[str] = field(default_factory=list)
    outside: dict[str, str] = field(default_factory=dict)
    stdin: str = "none"
    size: tuple[int, int] = (0, 0)
    given: int = -1


def spawn(program: Program) -> Child:
    """Fork a child that leads a session of its own and executes a program.

    Raises:
        OSError: there are no more processes or descriptors; nothing is left behind.
    """
    with contextlib.ExitStack() as opened, contextlib.ExitStack() as theirs:

        def take(reading: int, writing: int) -> tuple[int, int]:
            opened.callback(os.close, reading)
            theirs.callback(os.close, writing)
            return reading, writing

        out, out_job = take(*os.pipe2(os.O_CLOEXEC))
        err, err_job = take(*os.pipe2(os.O_CLOEXEC))
        report, reporting = take(*(sandboxed.channel() if program.sandbox else os.pipe2(os.O_CLOEXEC)))
        spec = _spec_for_inside(program) if program.sandbox else -1
        if spec >= 0:
            theirs.callback(os.close, spec)
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
            _become(program, stdin, out_job, err_job, reporting, spec)
        opened.pop_all()
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


def _give_streams(uid: int, gid: int) -> None:
    """Let them be opened as /dev/stdout and so on by the one that they are for; /dev/null stays everybody's."""
    null = os.stat(os.devnull)  # noqa: PTH116 # pathlib is large, and this is all it would do
    for fd in (0, 1, 2):
        if not os.path.samestat(os.fstat(fd), null):
            os.fchown(fd, uid, gid)


def _become(program: Program, stdin: int, out: int, err: int, report: int, spec: int) -> NoReturn:
    """In the child: become the program, or tell why not. Never returns, whatever happens."""
    stage = "exec"
    try:
        os.setsid()
        if program.stdin == "terminal":
            take_control(stdin)
        signal.set_wakeup_fd(-1)
        # Python ignores some, and so may whoever started us (nohup, a shell's &): a program expects them all as usual.
        become.handle_signals(signal.SIG_DFL)
        os.umask(program.umask)
        report, spec = _arrange_descriptors(stdin, out, err, report, spec)
        stage = "contain"
        for entrance in program.enter:
            fd = os.open(entrance, os.O_WRONLY | os.O_CLOEXEC)
            os.write(fd, b"0")
            os.close(fd)
        stage = "limits"
        os.nice(program.nice)
        if program.io_priority:
            become.set_io_priority(KERNEL, program.io_priority)
        if program.sandbox:
            become.make_room(program.limits)  # only now, as root; they are set inside
        else:
            become.set_limits(program.limits)
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
        if program.sandbox:
            stage = "isolate"
            _enter_sandbox(program)
        if program.drop_capabilities:
            stage = "capabilities"
            become.drop_capabilities(KERNEL)
        if program.no_new_privileges:
            stage = "privileges"
            become.forgo_privileges(KERNEL)
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


def _arrange_descriptors(stdin: int, out: int, err: int, report: int, spec: int) -> tuple[int, int]:
    """Have those that the program, or the way to it, is to have, under their numbers, and no other."""
    os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) if stdin < 0 else stdin, 0)
    # Those that are moved must not lie where others are moved to.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, SPEC + 1) for fd in (report, spec) if fd >= 0]
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.dup2(high[0], REPORT, inheritable=False)
    if spec >= 0:
        os.dup2(high[1], SPEC, inheritable=False)
    # Whatever we were given ourselves, and whatever a mistake of ours left open, is not for a job to have.
    os.closerange(SPEC + 1 if spec >= 0 else REPORT + 1, FIRST_IMPOSSIBLE)
    return REPORT, SPEC if spec >= 0 else -1


def _enter_sandbox(program: Program) -> NoReturn:
    """Execute what makes the sandbox. It stays outside, and is deaf to signals: those are for the job."""
    become.handle_signals(signal.SIG_IGN, but=signal.SIGCHLD)
    if program.no_new_privileges:
        become.forgo_privileges(KERNEL)
    os.set_inheritable(REPORT, True)
    os.set_inheritable(SPEC, True)
    command = [*program.sandbox, *INTERPRETER, ENTRY]
    os.execve(command[0], command, program.outside)  # noqa: S606 # no shell is what we want
