"""What every job's process starts with, and what is said when it cannot start."""

from __future__ import annotations

import errno
import os
import pwd
import resource
from typing import Any, Final

import trio

from jobd.worker.containment import Container, Containment
from jobd.worker.errors import LaunchError
from jobd.worker.isolation import Means
from jobd.worker.job import JobSpec, Reason

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_CWD: Final = "/"
IO_PRIORITY: Final = {0: 0, 1: 3 << 13, 2: 2 << 13 | 4}
"""For each class of the contract what ioprio_set(2) takes: the kernel's class, and in it the level."""


def environment_of(job_id: str, spec: JobSpec) -> dict[str, str]:
    """The clean base, of which nothing is the daemon's own, and over it what was asked for."""
    entry = pwd.getpwuid(os.getuid())
    base = {"PATH": PATH, "HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name, "LANG": "C.UTF-8"}
    return {**base, "JOBD_JOB_ID": job_id, **spec.env}


async def make_container(containment: Containment, job_id: str, spec: JobSpec) -> Container:
    """Make what holds a new job's processes together.

    Raises:
        LaunchError: it cannot be made.
    """
    try:
        return await trio.to_thread.run_sync(containment.create, job_id, spec.limits)
    except OSError as exc:
        raise LaunchError(
            Reason.CONTAINMENT_FAILED, f"there is no control group to be had for the job: {exc.strerror}"
        ) from exc


def see_to_isolation(means: Means, spec: JobSpec) -> None:
    """See that a job can be isolated as it is to be: it may have waited since it was admitted.

    Raises:
        LaunchError: it cannot.
    """
    for name, why in means.refused(spec.isolation):
        raise LaunchError(Reason.ISOLATION_FAILED, f"{name} {why}")


def program_of(job_id: str, spec: JobSpec, container: Container, means: Means) -> dict[str, Any]:
    """What the forking side is told (:class:`jobd.launcher.children.Program`)."""
    isolation = spec.isolation
    sandbox, uid = means.sandbox if isolation.sandboxed else None, os.geteuid()
    limits = spec.limits
    resources = [(resource.RLIMIT_NOFILE, limits.open_files), (resource.RLIMIT_CORE, limits.core)]
    return {
        "argv": spec.argv,
        "env": environment_of(job_id, spec),
        "cwd": spec.cwd or DEFAULT_CWD,
        "enter": list(container.entrances),
        "limits": [each for each in resources if each[1]],
        "nice": limits.nice,
        "io_priority": IO_PRIORITY[limits.io_class],
        "drop_capabilities": isolation.drop_capabilities,
        "no_new_privileges": not isolation.allow_new_privileges and not (sandbox and sandbox.gains and uid),
        "sandbox": sandbox.command(isolation, uid) if sandbox else [],
        "outside": {"PATH": PATH, "JOBD_JOB_ID": job_id},
    }


def launch_error(number: int, spec: JobSpec, stage: str, said: str = "") -> LaunchError:
    """What errno ``number`` means for a job that could not be started, because this step of it failed.

    Args:
        said: what else is known of it, in somebody else's words.
    """
    command, what = spec.argv[0], os.strerror(number)
    match stage:
        case "cwd":
            return LaunchError(Reason.CWD_UNUSABLE, f"the working directory {spec.cwd!a} cannot be used: {what}")
        case "contain":
            return LaunchError(Reason.CONTAINMENT_FAILED, f"the job cannot enter its control group: {what}")
        case "limits":
            return LaunchError(Reason.LAUNCH_REFUSED, f"the job's limits cannot be set: {what}")
        case "capabilities" | "privileges":
            return LaunchError(Reason.ISOLATION_FAILED, f"the job cannot be kept from its {stage}: {what}")
        case "isolate":
            why = f"bubblewrap says {said!a}" if said else what if number else "it ended before the job was in it"
            return LaunchError(Reason.ISOLATION_FAILED, f"the job's sandbox cannot be made: {why}")
    match number:
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
