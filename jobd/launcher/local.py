"""Makes processes as children of this one: no launcher, so jobs end with the process that made them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
from typing import Final

import trio

from jobd.launcher.environment import DEFAULT_CWD, environment_of, launch_error
from jobd.launcher.pipe import FdPipe
from jobd.launcher.procfs import group_has_members, signal_group
from jobd.worker.errors import LaunchError
from jobd.worker.job import JobSpec, Reason
from jobd.worker.ports import Pipe, Source

UMASK: Final = 0o022
PIPE_SIZE: Final = 256 * 1024


class LocalLauncher:
    """A :class:`jobd.worker.ports.Launcher` that forks from this process."""

    identity = ""

    async def launch(self, job_id: str, spec: JobSpec) -> LocalProcess:
        """Start the command as the leader of a new session, stdin from /dev/null.

        Raises:
            LaunchError: it could not be started; nothing is left behind.
        """
        return await trio.to_thread.run_sync(_spawn, job_id, spec)

    def take_adopted(self, job_id: str) -> LocalProcess | None:
        """Nothing outlives this process."""
        return None


def _spawn(job_id: str, spec: JobSpec) -> LocalProcess:
    out, out_job = os.pipe2(os.O_CLOEXEC)
    err, err_job = os.pipe2(os.O_CLOEXEC)
    for pipe in (out, err):
        with contextlib.suppress(OSError):  # the user's share of pipe memory is used up: the default size works too
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    try:
        popen = _popen(job_id, spec, out_job, err_job)
    except LaunchError:
        os.close(out)
        os.close(err)
        raise
    finally:
        os.close(out_job)
        os.close(err_job)
    return LocalProcess(popen, FdPipe(out), FdPipe(err))


def _popen(job_id: str, spec: JobSpec, out_job: int, err_job: int) -> subprocess.Popen[bytes]:
    cwd = spec.cwd or DEFAULT_CWD
    try:
        return subprocess.Popen(
            spec.argv,
            stdin=subprocess.DEVNULL,
            stdout=out_job,
            stderr=err_job,
            env=environment_of(job_id, spec),
            cwd=cwd,
            umask=UMASK,
            start_new_session=True,
        )
    except OSError as exc:
        cwd_failed = exc.filename == cwd and cwd != spec.argv[0]
        raise launch_error(exc.errno or 0, spec, cwd_failed=cwd_failed) from exc
    except (ValueError, subprocess.SubprocessError) as exc:
        raise LaunchError(Reason.LAUNCH_REFUSED, f"{spec.argv[0]!a} cannot be started: {exc}") from exc


class LocalProcess:
    """A child of this process, as a :class:`jobd.worker.ports.Process`."""

    def __init__(self, popen: subprocess.Popen[bytes], out: FdPipe, err: FdPipe) -> None:
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)
        self._pipes = {Source.STDOUT: out, Source.STDERR: err}
        self._status: int | None = None

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def started_at(self) -> int | None:
        return None

    def pipe(self, source: Source) -> Pipe:
        return self._pipes[source]

    async def exited(self) -> int | None:
        if self._status is None:
            await trio.lowlevel.wait_readable(self._pidfd)
            _, self._status = os.waitpid(self.pid, 0)  # noqa: ASYNC222 # it is dead: this does not wait
            # Popen must not wait for the pid by itself: somebody else may have it by then.
            self._popen.returncode = os.waitstatus_to_exitcode(self._status)
            trio.lowlevel.notify_closing(self._pidfd)
            os.close(self._pidfd)
        return self._status

    def signal_group(self, signum: int) -> None:
        signal_group(self.pid, signum, leader_reaped=self._status is not None)

    async def group_is_empty(self) -> bool:
        return await group_is_empty(self.pid)

    def release(self) -> None:
        """Nobody else remembers this process."""


async def group_is_empty(pgid: int) -> bool:
    """No process of the group, whose leader was reaped, is left alive."""
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        await trio.lowlevel.checkpoint()
        return True
    except PermissionError:
        pass  # members that we may not signal are members
    # kill(2) counts zombies too, and those may wait long for an init that takes its time.
    return not await trio.to_thread.run_sync(group_has_members, pgid)
