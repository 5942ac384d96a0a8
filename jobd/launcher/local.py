"""Makes processes as children of this one."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import subprocess
from collections.abc import Mapping
from typing import Final

import trio

from jobd.launcher.procfs import group_has_members
from jobd.worker.errors import LaunchError
from jobd.worker.job import JobSpec, Reason
from jobd.worker.ports import Pipe, Source

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_CWD: Final = "/"
UMASK: Final = 0o022
PIPE_SIZE: Final = 256 * 1024
"""Wanted capacity of a pipe: what a job can write ahead of us. Less is fine (pipe(7) limits it for each user)."""


class LocalLauncher:
    """A :class:`jobd.worker.ports.Launcher` that forks from this process."""

    async def launch(self, job_id: str, spec: JobSpec) -> LocalProcess:
        """Start the command as the leader of a new session, stdin from /dev/null.

        Raises:
            LaunchError: it could not be started; nothing is left behind.
        """
        return await trio.to_thread.run_sync(_spawn, job_id, spec)


def base_environment() -> dict[str, str]:
    """The clean base of every job's environment: nothing of the daemon's own is in it."""
    entry = pwd.getpwuid(os.getuid())
    return {"PATH": PATH, "HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name, "LANG": "C.UTF-8"}


def _spawn(job_id: str, spec: JobSpec) -> LocalProcess:
    environment = {**base_environment(), "JOBD_JOB_ID": job_id, **spec.env}
    cwd = spec.cwd or DEFAULT_CWD
    out, out_job = os.pipe2(os.O_CLOEXEC)
    err, err_job = os.pipe2(os.O_CLOEXEC)
    try:
        popen = _popen(spec, environment, cwd, out_job, err_job)
    except LaunchError:
        os.close(out)
        os.close(err)
        raise
    finally:
        os.close(out_job)
        os.close(err_job)
    return LocalProcess(popen, _FdPipe(out), _FdPipe(err))


def _popen(
    spec: JobSpec, environment: Mapping[str, str], cwd: str, out_job: int, err_job: int
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            spec.argv,
            stdin=subprocess.DEVNULL,
            stdout=out_job,
            stderr=err_job,
            env=environment,
            cwd=cwd,
            umask=UMASK,
            start_new_session=True,
        )
    except OSError as exc:
        raise _launch_error(exc, spec, cwd) from exc
    except (ValueError, subprocess.SubprocessError) as exc:
        raise LaunchError(Reason.LAUNCH_REFUSED, f"{spec.argv[0]!a} cannot be started: {exc}") from exc


def _launch_error(exc: OSError, spec: JobSpec, cwd: str) -> LaunchError:
    command, what = spec.argv[0], exc.strerror or str(exc)
    if exc.filename == cwd and cwd != command:
        return LaunchError(Reason.CWD_UNUSABLE, f"the working directory {cwd!a} cannot be used: {what}")
    match exc.errno:
        case errno.ENOENT | errno.ENOTDIR if "/" in command:
            return LaunchError(Reason.COMMAND_NOT_FOUND, f"{command!a} (or its interpreter) is not there")
        case errno.ENOENT | errno.ENOTDIR:
            return LaunchError(
                Reason.COMMAND_NOT_FOUND, f"there is no command {command!a} in the PATH of the job; give its full path"
            )
        case errno.EACCES | errno.ENOEXEC | errno.EPERM | errno.EISDIR:
            return LaunchError(Reason.NOT_EXECUTABLE, f"{command!a} cannot be executed: {what}")
        case errno.E2BIG:
            return LaunchError(
                Reason.ARGUMENTS_TOO_LONG,
                "arguments and environment are longer than the kernel takes; pass them in a file",
            )
        case _:
            return LaunchError(Reason.LAUNCH_REFUSED, f"{command!a} cannot be started: {what}")


class LocalProcess:
    """A child of this process, as a :class:`jobd.worker.ports.Process`."""

    def __init__(self, popen: subprocess.Popen[bytes], out: _FdPipe, err: _FdPipe) -> None:
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)
        self._pipes = {Source.STDOUT: out, Source.STDERR: err}

    @property
    def pid(self) -> int:
        return self._popen.pid

    def pipe(self, source: Source) -> Pipe:
        return self._pipes[source]

    async def exited(self) -> None:
        await trio.lowlevel.wait_readable(self._pidfd)

    def signal_group(self, signum: int) -> None:
        try:
            os.killpg(self.pid, signum)
        except ProcessLookupError:
            pass
        except PermissionError:
            # kill(2): no process of the group may be signalled by us (it became another user's).
            pass

    def reap(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        # Popen must not wait for the pid by itself: somebody else may have it by then.
        self._popen.returncode = os.waitstatus_to_exitcode(status)
        trio.lowlevel.notify_closing(self._pidfd)
        os.close(self._pidfd)
        return status

    async def group_is_empty(self) -> bool:
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            await trio.lowlevel.checkpoint()
            return True
        except PermissionError:
            pass  # members that we may not signal are members
        # kill(2) counts zombies too, and those may wait long for an init that takes its time.
        return not await trio.to_thread.run_sync(group_has_members, self.pid)


class _FdPipe:
    """The reading end of a pipe, as a :class:`jobd.worker.ports.Pipe`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_blocking(fd, False)
        try:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:
            return  # the user's share of pipe memory is used up: the default size works too

    def fileno(self) -> int:
        return self._fd

    async def wait_readable(self) -> None:
        await trio.lowlevel.wait_readable(self._fd)

    def close(self) -> None:
        trio.lowlevel.notify_closing(self._fd)
        os.close(self._fd)
