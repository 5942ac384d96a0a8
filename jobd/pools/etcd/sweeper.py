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
from jobd.pools.etcd.transaction import KeyValue

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
        whole = [each for each in page.found if self._is_whole(each)]
        going = to_leave(keys, whole, max(ended, len(whole)), self._keep, time.time_ns())
        for begin in range(0, len(going), TOGETHER):
            await self._client.txn(leave(keys, going[begin : begin + TOGETHER]))
        return page.more and bool(going) and len(going) == len(whole)

    def _is_whole(self, at: KeyValue) -> bool:
        """One that is damaged stays, and keeps no others."""
        try:
            self._mirror.at.ended_at(at.key)
            leave(self._mirror.at, [at])
        except PoolDataError as exc:
            log.error("a record of the pool is damaged, and left alone", error=str(exc))
            return False
        return True
