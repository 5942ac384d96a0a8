"""Makes processes as children of this one: no launcher, so jobs end with the process that made them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from jobd.launcher import become
from jobd.launcher.contained import ContainedProcess
from jobd.launcher.environment import identity_of, launch_error, make_container, program_of, see_to_isolation
from jobd.launcher.outlived import OutlivedProcess, find_outlived
from jobd.launcher.pipe import FdPipe
from jobd.launcher.procfs import signal_group
from jobd.launcher.relay import Relay, writing_end
from jobd.launcher.stdin import FdStdin, giving
from jobd.launcher.terminal import open_terminal, take_control
from jobd.worker.containment import MARK_LIMIT, Container, Containment
from jobd.worker.errors import LaunchError
from jobd.worker.identity import own
from jobd.worker.isolation import NO_MEANS, Means
from jobd.worker.job import JobSpec, Reason
from jobd.worker.ports import Pipe, Source
from jobd.worker.stdin import StdinMode

PIPE_SIZE: Final = 256 * 1024
KERNEL: Final = become.kernel()


class LocalLauncher:
    """A :class:`jobd.worker.ports.Launcher` that forks from this process."""

    identity = ""

    def __init__(self, containment: Containment, means: Means = NO_MEANS) -> None:
        self.containment = containment
        self.means = means.without_sandbox("jobs that end with jobd have none")

    async def launch(self, job_id: str, spec: JobSpec) -> LocalProcess:
        """Start the command as the leader of a new session.

        Raises:
            LaunchError: it could not be started; nothing is left behind.
        """
        see_to_isolation(self.means, spec)
        who = await identity_of(spec)
        if spec.isolation.drop_capabilities and who is not own():
            # They would be dropped before the user is taken, which takes them.
            why = "drop_capabilities cannot be had here together with another user or group"
            raise LaunchError(Reason.ISOLATION_FAILED, f"{why}: jobs end with jobd")
        container = await make_container(self.containment, job_id, spec)
        try:
            program = program_of(job_id, spec, container, self.means, who)
            return await trio.to_thread.run_sync(self._spawn, container, program, spec)
        except LaunchError:
            await trio.to_thread.run_sync(container.remove)
            raise

    def take_adopted(self, job_id: str) -> LocalProcess | None:
        """Nothing outlives this process that is not killed."""
        return None

    async def find_outlived(self, job_id: str, pid: int, launcher: str) -> OutlivedProcess | None:
        """What is left of a job of one that was, if anything is."""
        return await find_outlived(self.containment, job_id, pid, launcher)

    def _spawn(self, container: Container, program: dict[str, Any], spec: JobSpec) -> LocalProcess:
        with ExitStack() as ours, ExitStack() as theirs:

            def pipe() -> tuple[int, int]:
                reading, writing = os.pipe2(os.O_CLOEXEC)
                ours.callback(os.close, reading)
                theirs.callback(os.close, writing)
                return reading, writing

            (out, out_job), (err, err_job) = pipe(), pipe()
            for each in (out, err):
                with contextlib.suppress(OSError):  # the user's share of pipe memory is used up: the default works too
                    fcntl.fcntl(each, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
            near, relayed = -1, -1
            stdin = (*theirs.enter_context(giving(spec)), subprocess.DEVNULL)[0]
            if spec.terminal:
                near, stdin = open_terminal(spec.terminal.rows, spec.terminal.columns)
                ours.callback(os.close, near)
                theirs.callback(os.close, stdin)
                relayed = writing_end(out)
                ours.callback(os.close, relayed)
                out_job = err_job = stdin
            elif spec.stdin is StdinMode.PIPE:
                stdin, near = os.pipe2(os.O_CLOEXEC)
                theirs.callback(os.close, stdin)
                ours.callback(os.close, near)
                os.set_blocking(near, False)
            entrances = _entrances(program, theirs)
            with ThreadPoolExecutor(1) as thread:
                popen = thread.submit(_restrained, program, spec, entrances, stdin, out_job, err_job).result()
            _limit_all(popen, program)
            ours.pop_all()
        pipes = {Source.STDOUT: FdPipe(out), Source.STDERR: FdPipe(err)}
        return LocalProcess(self.containment, container, popen, pipes, near, relayed)


def _entrances(program: dict[str, Any], until: ExitStack) -> list[int]:
    """The files into which the job writes itself, open: whether one may is asked of whoever opens them."""
    found = []
    try:
        for entrance in program["enter"]:
            found.append(os.open(entrance, os.O_WRONLY | os.O_CLOEXEC))
            until.callback(os.close, found[-1])
    except OSError as exc:
        raise LaunchError(Reason.CONTAINMENT_FAILED, f"the job's control group is gone: {exc.strerror}") from exc
    return found


def _restrained(
    program: dict[str, Any], spec: JobSpec, entrances: list[int], stdin: int, out_job: int, err_job: int
) -> subprocess.Popen[bytes]:
    """For a thread that ends after it: what is given up here is the thread's own, and its children's."""
    stage = "limits"
    try:
        if program["io_priority"]:
            become.set_io_priority(KERNEL, program["io_priority"])
        if program["drop_capabilities"]:
            stage = "capabilities"
            become.drop_capabilities(KERNEL)
        if program["no_new_privileges"]:
            stage = "privileges"
            become.forgo_privileges(KERNEL)
    except OSError as exc:
        raise launch_error(exc.errno or 0, spec, stage) from exc
    return _popen(program, spec, entrances, stdin, out_job, err_job)


def _popen(
    program: dict[str, Any], spec: JobSpec, entrances: list[int], stdin: int, out_job: int, err_job: int
) -> subprocess.Popen[bytes]:
    cwd = program["cwd"]
    whom = _whom(program, spec, *(fd for fd in (stdin, out_job, err_job) if fd >= 0))
    try:
        return subprocess.Popen(
            spec.argv,
            stdin=stdin,
            stdout=out_job,
            stderr=err_job,
            env=program["env"],
            cwd=cwd,
            umask=program["umask"],
            start_new_session=True,
            # Between fork and exec, and a system call each: posix_spawn(3) has no way to do it, nor has Popen.
            preexec_fn=partial(_enter, entrances, bool(spec.terminal)) if entrances or spec.terminal else None,
            **whom,
        )
    except OSError as exc:
        cwd_failed = exc.filename == cwd and cwd != spec.argv[0]
        raise launch_error(exc.errno or 0, spec, "cwd" if cwd_failed else "exec") from exc
    except (ValueError, subprocess.SubprocessError) as exc:
        raise LaunchError(Reason.LAUNCH_REFUSED, f"{spec.argv[0]!a} cannot be started: {exc}") from exc


def _enter(entrances: list[int], terminal: bool) -> None:
    for entrance in entrances:
        os.write(entrance, b"0")
    if terminal:
        take_control(0)


def _whom(program: dict[str, Any], spec: JobSpec, *streams: int) -> dict[str, Any]:
    """What to tell Popen of whom the job runs as, when the job may be in its directory as that one."""
    if program["identity"] is None:
        return {}
    (uid, gid, groups), cwd = program["identity"], program["cwd"]
    try:
        for fd in streams:
            os.fchown(fd, uid, gid)
    except OSError as exc:
        raise launch_error(exc.errno or 0, spec, "streams") from exc
    whom = {"user": uid, "group": gid, "extra_groups": groups}
    try:  # Popen enters the directory as this process, and becomes the user then
        entered = not Path(cwd).is_dir() or not subprocess.run(["test", "-x", cwd], **whom).returncode  # noqa: S607 # of coreutils, wherever it is
    except OSError as exc:
        raise launch_error(exc.errno or 0, spec, "user") from exc
    if not entered:
        raise launch_error(errno.EACCES, spec, "cwd")
    return whom


def _limit_all(popen: subprocess.Popen[bytes], program: dict[str, Any]) -> None:
    """After the fact, since limits are of a whole process, and this one has others: what it has forked by then is
    without them. The launcher, which is what jobs that matter run under, does it in time.

    Raises:
        LaunchError: it cannot be done; the process has ended.
    """
    try:
        with contextlib.suppress(ProcessLookupError):
            for number, value in program["limits"]:
                _limit(popen.pid, number, value)
            if program["nice"]:
                os.setpriority(os.PRIO_PROCESS, popen.pid, program["nice"])
    except OSError as exc:
        popen.kill()
        popen.wait()
        raise LaunchError(Reason.LAUNCH_REFUSED, f"the job's limits cannot be set: {exc.strerror}") from exc


def _limit(pid: int, number: int, value: int) -> None:
    try:
        resource.prlimit(pid, number, (value, value))
    except PermissionError:  # another user's, and we are root without CAP_SYS_RESOURCE
        if number != MARK_LIMIT:  # which limits nothing
            raise


class LocalProcess(ContainedProcess):
    """A child of this process, as a :class:`jobd.worker.ports.Process`."""

    def __init__(
        self,
        containment: Containment,
        container: Container,
        popen: subprocess.Popen[bytes],
        pipes: dict[Source, FdPipe],
        near: int,
        relayed: int,
    ) -> None:
        """
        Args:
            near: what its stdin is written with; -1 when there is no such thing.
            relayed: the writing end of what is then its stdout, if it has a terminal.
        """
        super().__init__(containment, container, popen.pid)
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)
        self._pipes = pipes
        self._status: int | None = None
        self._ended = trio.Event()
        terminal = relayed >= 0
        self._relay = Relay(near, relayed) if terminal else None
        self.stdin = FdStdin(near, terminal=terminal, tell_closed=trio.lowlevel.checkpoint) if near >= 0 else None

    @property
    def started_at(self) -> int | None:
        return None

    def pipe(self, source: Source) -> Pipe:
        return self._pipes[source]

    async def carry(self) -> None:
        if self._relay:
            await self._relay.carry(self._ended)

    async def release(self) -> None:
        await super().release()
        if self._relay:
            self._relay.close()
        if self.stdin:
            self.stdin.let_go()

    async def exited(self) -> int | None:
        if self._status is None:
            await trio.lowlevel.wait_readable(self._pidfd)
            _, self._status = os.waitpid(self.pid, 0)  # noqa: ASYNC222 # it is dead: this does not wait
            # Popen must not wait for the pid by itself: somebody else may have it by then.
            self._popen.returncode = os.waitstatus_to_exitcode(self._status)
            trio.lowlevel.notify_closing(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
            self._first_ended()
            self._ended.set()
        return self._status

    def signal_main(self, signum: int) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signum)

    def _signal_group(self, signum: int) -> None:
        signal_group(self.pid, signum, leader_reaped=self._status is not None)
