"""What a machine tells a pool that is frozen: which of the jobs that wait, or were given to others, it has had.

An etcd that was restored to a day before has forgotten claims of the time since. While nothing is placed, each machine
puts back those of the jobs that it runs or has ended, before somebody else gets them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from api.retry import Retry
from jobd.pools.etcd.errors import EtcdError
from jobd.pools.etcd.intents import local
from jobd.pools.etcd.mirror import Mirror
from jobd.pools.etcd.pool_errors import PoolDataError
from jobd.pools.etcd.rejoin import Local
from jobd.worker.errors import StoreError
from jobd.worker.job import Job

log = structlog.get_logger(__name__)


class Restored:
    """Of one machine."""

    def __init__(
        self,
        mirror: Mirror,
        known: Callable[[str], Awaitable[Job | None]],
        say: Callable[[str], Awaitable[bool]],
    ) -> None:
        """
        Args:
            known: what this machine's own store has of a job.
            say: puts a job's claim back; False when there is nothing to put back (any more).
        """
        self._mirror = mirror
        self._known = known
        self._say = say
        self._asked: set[str] | None = None  # since the pool was frozen

    async def see_to(self) -> list[str]:
        """Say it, if the pool is frozen and that was not done yet; the jobs that were spoken of."""
        if not self._mirror.frozen:
            self._asked = None
            return []
        said, first = [], self._asked is None
        self._asked = self._asked or set()
        unclaimed = (*self._mirror.queue.keys, *self._mirror.assignments.keys)
        for job_id in sorted({self._mirror.at.job_of(key) for key in unclaimed} - self._asked):
            if await self._had(job_id):
                said.append(job_id)
            self._asked.add(job_id)
        if first and self._mirror.frozen:
            log.info("the pool is frozen, and knows what this machine has", put_back=len(said))
        return said

    async def _had(self, job_id: str) -> bool:
        """Whether we had it; if so, that is said now."""
        retry, had = Retry(float("inf")), False
        while self._mirror.frozen:
            try:
                if local(await self._known(job_id)) not in (Local.RUNS, Local.ENDED) or not await self._say(job_id):
                    return had
                had = True
            except PoolDataError as exc:
                log.error("a frozen pool cannot be told of a job", job=job_id, error=str(exc))
                return had
            except (EtcdError, StoreError) as exc:
                log.info("a frozen pool cannot be told of a job now", job=job_id, error=str(exc))
                await retry.pause()
        return had
