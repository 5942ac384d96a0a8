"""Records of jobs that have ended leave etcd. All brokers see to that; whoever is late changes nothing."""

from __future__ import annotations

import random
import time
from typing import Final

import structlog
import trio

from jobd.pools.etcd.client import Client
from jobd.pools.etcd.errors import EtcdError
from jobd.pools.etcd.housekeeping import TOGETHER, KeepRecords, leave, to_leave
from jobd.pools.etcd.mirror import Mirror
from jobd.pools.etcd.pool_errors import PoolDataError

log = structlog.get_logger(__name__)

EVERY: Final = 60.0
"""Seconds between two looks, at most."""
PAGE: Final = 200


class Sweeper:
    """Made for one mirror; :meth:`run` is its life."""

    def __init__(self, client: Client, mirror: Mirror, seconds: float, jobs: int) -> None:
        """
        Args:
            seconds, jobs: how long, and how many of those that have ended, stay.
        """
        self._client = client
        self._mirror = mirror
        self._keep = KeepRecords(seconds, jobs)

    async def run(self) -> None:
        """See to it for ever."""
        await self._mirror.whole()
        while True:
            await trio.sleep(random.uniform(EVERY / 2, EVERY))  # noqa: S311 # jitter, not a secret
            try:
                while await self.sweep():
                    pass
            except (EtcdError, PoolDataError) as exc:
                log.info("old records of the pool cannot be seen to now", error=str(exc))

    async def sweep(self) -> bool:
        """Let some go that have to; whether there may be more."""
        keys, mirror = self._mirror.at, self._mirror
        ended = len(mirror.jobs.keys) - len(mirror.queue.keys) - len(mirror.assignments.keys)
        page = await self._client.page(keys.ends, size=PAGE)
        going = to_leave(keys, page.found, max(ended, len(page.found)), self._keep, time.time_ns())
        for begin in range(0, len(going), TOGETHER):
            await self._client.txn(leave(keys, going[begin : begin + TOGETHER]))
        return len(going) == PAGE
