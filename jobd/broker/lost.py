"""What is said of a job that ran before this server, and that nobody can trace any more: a pure function."""

from __future__ import annotations

from jobd.worker.job import Job, Reason
from jobd.worker.lifecycle import Event


def lost_job(job: Job, launcher: str, *, output: int, dropped: int, now: int) -> Job:
    """The job after its end that nobody saw.

    Args:
        launcher: the one that there is now.
        output, dropped: bytes of its output that were recorded, and that are known to be missing.
    """
    reason, why = _why(job, launcher)
    return job.moved(
        Event.UNTRACEABLE,
        stopping=False,
        ended_at=now,
        output_bytes=output,
        dropped_bytes=dropped,
        reason=reason,
        message=why,
        receipt=None,
    )


def _why(job: Job, launcher: str) -> tuple[Reason, str]:
    gone = f"pid {job.pid} is not there, or not ours" if job.pid else "no process of it was found"
    if not job.launcher or not launcher:
        return Reason.DAEMON_LOST, f"jobd was killed while the job ran: {gone}"
    if rebooted(job, launcher):
        return Reason.REBOOTED, "the machine was restarted while the job ran"
    return Reason.LAUNCHER_LOST, f"the launcher and the server ended while the job ran: {gone}"


def rebooted(job: Job, launcher: str) -> bool:
    """The job's launcher was of another boot of the machine than this one: no process of it can be left."""
    return bool(job.launcher and launcher) and job.launcher.split("/")[0] != launcher.split("/")[0]
