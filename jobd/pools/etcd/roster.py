"""The machines of the pool, as its brokers show and steer them."""

from __future__ import annotations

import contextlib
import math
import time
from typing import Final

import trio

from jobd.broker.pooled import Member
from jobd.pools.etcd import membership, records
from jobd.pools.etcd.asking import Asking, see_that_it_is_known
from jobd.pools.etcd.client import Client
from jobd.pools.etcd.codec import decode
from jobd.pools.etcd.mirror import Mirror
from jobd.pools.etcd.pool_errors import PoolNameError
from jobd.pools.etcd.records import Session
from jobd.pools.etcd.transaction import KeyValue
from jobd.worker.errors import NoSuchWorkerError, PoolUnavailableError

AGAIN: Final = 1.0
"""Seconds until etcd is asked again for a session that was not heard of."""


class Roster:
    """As of :class:`jobd.broker.pooled.Machines`."""

    def __init__(self, client: Client, mirror: Mirror) -> None:
        self._etcd = Asking(client, mirror)
        self._mirror = mirror

    def members(self) -> list[Member]:
        """The machines, those that are gone among them."""
        see_that_it_is_known(self._mirror)
        return [self._member_of(each) for _, each in sorted(self._mirror.members.keys.items())]

    def _member_of(self, at: KeyValue) -> Member:
        keys = self._mirror.at
        name, known = keys.worker_of(at.key), decode(records.Member, at.key, at.value)
        taken = sum(1 for _ in self._mirror.assignments.below(keys.assignments(name)))
        drained = keys.drain(name) in self._mirror.drains.keys
        up = self._mirror.sessions.keys.get(keys.session(name))
        if up is None:
            return Member(name, known.address, known.version, taken, there=False, drained=drained)
        session = decode(Session, up.key, up.value)
        return Member(
            name,
            known.address,
            known.version,
            taken + session.own,
            there=True,
            drained=drained,
            slots=session.slots,
            labels=session.labels,
            containment=session.containment,
            limits=session.limits,
            isolation=session.isolation,
        )

    async def gone(self, worker: str) -> None:
        """Wait until a worker is not heard of any more. While etcd is away nobody can say that."""
        key, sessions = self._mirror.at.session(worker), self._mirror.sessions
        while True:
            known = key in sessions.keys
            if not known:
                with contextlib.suppress(PoolUnavailableError):  # it may have come a moment ago
                    if await self._etcd.read(key) is None:
                        return
            # Of one that is not known here it may be that nothing more is heard.
            with trio.move_on_after(math.inf if known else AGAIN):
                await sessions.changed(key)

    @property
    def pending(self) -> int:
        """How many jobs wait for a worker."""
        return len(self._mirror.queue.keys)

    async def drain(self, worker: str, by: str) -> None:
        """Give a worker no further jobs.

        Raises:
            NoSuchWorkerError: the pool knows none of that name.
            PoolUnavailableError: etcd cannot be written.
        """
        await self._etcd.sent(membership.drain(self._mirror.at, await self._member(worker), by, time.time_ns()))

    async def undrain(self, worker: str) -> None:
        """Give it jobs again.

        Raises:
            NoSuchWorkerError, PoolUnavailableError: as for :meth:`drain`.
        """
        await self._member(worker)
        await self._etcd.sent(membership.undrain(self._mirror.at, worker))

    async def _member(self, worker: str) -> KeyValue:
        try:
            member = await self._etcd.read(self._mirror.at.member(worker))
        except PoolNameError:
            member = None
        if member is None:
            raise NoSuchWorkerError(worker)
        return member
