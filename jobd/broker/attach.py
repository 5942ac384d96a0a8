"""Attaching to a job, wherever it is in its life."""

from __future__ import annotations

from jobd.broker.registry import Entry
from jobd.worker.errors import JobEndedError, NotAttachableError
from jobd.worker.job import JobCell
from jobd.worker.lifecycle import State
from jobd.worker.ports import Follower, Start
from jobd.worker.stdin import Attacher, Attachment


async def attach(entry: Entry, start: Start, who: Attacher, *, take_over: bool) -> tuple[Attachment, Follower, JobCell]:
    """Write to a job's stdin and follow its output; waits until the job has started. Cancelled, it has not begun.

    Raises:
        NotAttachableError, JobEndedError, AlreadyAttachedError: there is nothing to attach to, or somebody is.
        OffsetBeyondEndError: so much was not recorded.
    """
    job = entry.cell.job
    if not job.spec.attachable:
        raise NotAttachableError(job.id)
    await entry.cell.wait_until(lambda job: job.state is not State.PENDING)
    worker = await entry.active_worker()
    if worker is None:
        raise JobEndedError(job.id, entry.cell.job.state)
    follower = await worker.stream(job.id, start)
    try:
        _see_that_it_runs(entry)  # it may have ended meanwhile, and the worker have forgotten it
        return await worker.attach(job.id, who, take_over=take_over), follower, entry.cell
    except BaseException:  # Cancelled too: nobody else lets go of it
        follower.close()
        raise


def _see_that_it_runs(entry: Entry) -> None:
    job = entry.cell.job
    if job.state.terminal:
        raise JobEndedError(job.id, job.state)
