"""What every job's process starts with, and what is said when it cannot start."""

from __future__ import annotations

import errno
import os
import resource
from functools import partial
from typing import Any, Final

import trio

from jobd.launcher.become import IO_PRIORITIES
from jobd.launcher.together import in_turn
from jobd.worker.containment import MARK_LIMIT, MARK_VARIABLE, Container, Containment, mark_of
from jobd.worker.errors import LaunchError
from jobd.worker.identity import Identity, UnknownAccountError, look_up, own
from jobd.worker.isolation import Means
from jobd.worker.job import JobSpec, Reason
from jobd.worker.stdin import DEFAULT_TERM

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_CWD: Final = "/"
UMASK: Final = 0o022
_REMOVING: Final = trio.CapacityLimiter(1)
"""Threads that remove what a job has made much of."""


async def identity_of(spec: JobSpec) -> Identity:
    """Whom the job is to run as.

    Raises:
        LaunchError: there is no such user or group (any more).
    """
    if spec.user in ("", own().name) and not spec.group:
        return own()
    try:
        return await trio.to_thread.run_sync(look_up, spec.user or own().name, spec.group)
    except UnknownAccountError as exc:
        raise LaunchError(Reason.USER_UNUSABLE, str(exc)) from exc


def environment_of(job_id: str, spec: JobSpec, who: Identity) -> dict[str, str]:
    """The clean base, of which nothing is the daemon's own, and over it what was asked for."""
    base = {"PATH": PATH, "HOME": who.home, "USER": who.name, "LOGNAME": who.name, "LANG": "C.UTF-8"}
    if spec.terminal:
        base["TERM"] = spec.terminal.term or DEFAULT_TERM
    given = {**spec.env, **spec.secret_env}
    trace = {"TRACEPARENT": spec.traceparent, "TRACESTATE": spec.tracestate}
    if not trace.keys() & given.keys():  # a state belongs to its parent: both are of the call, or neither
        base.update({name: value for name, value in trace.items() if value})
    return {**base, MARK_VARIABLE: job_id, **given}


async def make_container(containment: Containment, job_id: str, spec: JobSpec) -> Container:
    """Make what holds a new job's processes together.

    Raises:
        LaunchError: it cannot be made.
    """
    try:
        return await in_turn(partial(containment.create, job_id, spec.limits), prompt=containment.prompt)
    except OSError as exc:
        raise LaunchError(
            Reason.CONTAINMENT_FAILED, f"there is no control group to be had for the job: {exc.strerror}"
        ) from exc


async def remove_container(containment: Containment, container: Container) -> None:
    """Leave nothing of it. Jobs that made thousands of groups in their own hold up no other's start."""
    if not await in_turn(container.remove_at_once, prompt=containment.prompt):
        await trio.to_thread.run_sync(container.remove, limiter=_REMOVING)


async def give_up(containment: Containment, container: Container, spec: JobSpec, failure: LaunchError) -> None:
    """Leave nothing of the container of a job that could not be started.

    Raises:
        LaunchError: there is more to say of it than ``failure`` does.
    """
    of_sandbox = failure.reason is Reason.ISOLATION_FAILED and spec.limits.memory
    used = await trio.to_thread.run_sync(container.usage) if of_sandbox else None
    await remove_container(containment, container)
    if used and used.out_of_memory:
        why = f"the job's sandbox cannot be made in the {spec.limits.memory} bytes of memory that it may use"
        raise LaunchError(Reason.OUT_OF_MEMORY, why) from failure


def see_to_isolation(means: Means, spec: JobSpec) -> None:
    """See that a job can be isolated as it is to be: it may have waited since it was admitted.

    Raises:
        LaunchError: it cannot.
    """
    for name, why in means.refused(spec.isolation):
        raise LaunchError(Reason.ISOLATION_FAILED, f"{name} {why}")


def program_of(job_id: str, spec: JobSpec, container: Container, means: Means, who: Identity) -> dict[str, Any]:
    """What the forking side is told (:class:`jobd.launcher.program.Program`)."""
    isolation = spec.isolation
    sandbox, uid = means.sandbox if isolation.sandboxed else None, who.uid
    limits = spec.limits
    resources = [
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_CORE, limits.core),
        (MARK_LIMIT, _mark(job_id)),
    ]
    return {
        "argv": spec.argv,
        "env": environment_of(job_id, spec, who),
        "cwd": spec.cwd or DEFAULT_CWD,
        "enter": list(container.entrances),
        "limits": [each for each in resources if each[1]],
        "nice": limits.nice,
        "umask": UMASK if spec.umask is None else spec.umask,
        "identity": None if who is own() else (who.uid, who.gid, who.groups),
        "io_priority": IO_PRIORITIES[limits.io_class],
        "drop_capabilities": isolation.drop_capabilities,
        "no_new_privileges": not isolation.allow_new_privileges and not (sandbox and sandbox.gains and uid),
        "sandbox": sandbox.command(isolation, uid) if sandbox else [],
        "outside": {"PATH": PATH, MARK_VARIABLE: job_id},
        "stdin": stdin_of(spec),
        "size": [spec.terminal.rows, spec.terminal.columns] if spec.terminal else [0, 0],
    }


def _mark(job_id: str) -> int:
    """The job's mark; 0 where this process itself may not have so high a limit, being marked by another jobd."""
    mark, (_, highest) = mark_of(job_id), resource.getrlimit(MARK_LIMIT)
    return mark if highest == resource.RLIM_INFINITY or mark <= highest else 0


def stdin_of(spec: JobSpec) -> str:
    """What a job's stdin is, in the words of the launcher."""
    if spec.terminal:
        return "terminal"
    return "data" if spec.stdin_data else spec.stdin.value


def launch_error(number: int, spec: JobSpec, stage: str, said: str = "") -> LaunchError:
    """What errno ``number`` means for a job that could not be started, because this step of it failed.

    Args:
        said: what else is known of it, in somebody else's words.
    """
    command, what = spec.argv[0], os.strerror(number)
    match stage:
        case "cwd":
            return LaunchError(Reason.CWD_UNUSABLE, f"the working directory {spec.cwd!a} cannot be used: {what}")
        case "refused":
            return LaunchError(Reason.LAUNCH_REFUSED, "the launcher may not start such a job; the log has why")
        case "contain":
            return LaunchError(Reason.CONTAINMENT_FAILED, f"the job cannot enter its control group: {what}")
        case "limits":
            return LaunchError(Reason.LAUNCH_REFUSED, f"the job's limits cannot be set: {what}")
        case "streams" | "groups" | "group" | "user":
            step = {"streams": "give it its output", "user": "take its user"}.get(stage, f"take its {stage}")
            group = f" with the group {spec.group!a}" if spec.group else ""
            return LaunchError(
                Reason.USER_UNUSABLE, f"the job cannot run as {spec.user!a}{group}: jobd cannot {step} here: {what}"
            )
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
