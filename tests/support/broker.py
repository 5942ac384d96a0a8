"""What tests of a broker ask of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from jobd.broker.broker import Broker
from jobd.worker.job import Job, JobSpec

Make = Callable[..., AbstractAsyncContextManager[Broker]]
SLEEP = JobSpec(("sleep", "60"))


async def end_of(broker: Broker, job: Job) -> Job:
    """Wait for a job's end."""
    [ended] = await broker.wait([job.id], any_of_them=False)
    return ended
