"""A broker's own accord: jobs that wait go to workers, and what a worker that is gone had does not stay with it.

All brokers do the same; whoever is late changes nothing. So that they do not all try at the same moment, each waits a
little, another time each, before it sees to what it did not bring itself.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio

from jobd.pools.etcd import ends, steps
from jobd.pools.etcd.client import Client
from jobd.pools.etcd.codec import decode
from jobd.pools.etcd.errors import EtcdError
from jobd.pools.etcd.mirror import Mirror
from jobd.pools.etcd.placement import Candidate, Waiting, Wish, placements, why
from jobd.pools.etcd.pool_errors import PoolDataError
from jobd.pools.etcd.records import Order, Phase, Session
from jobd.pools.etcd.steps import Found

log = structlog.get_logger(__name__)

PATIENCE: Final = 0.25
"""Seconds, at most, that a broker leaves to others what it did not bring."""
GRACE: Final = 1.0
"""Seconds that a session has been missing before its worker counts as gone: a server that comes back makes it anew."""
AT_ONCE: Final = 32
"""Jobs that are placed at a time."""

Orders = Callable[[str], Awaitable[Order | None]]
"""The order of a job, if there is (still) one."""


class Placer:
    """Made for one mirror; :meth:`run` is its life."""

    def __init__(self, client: Client, mirror: Mirror, orders: Orders) -> None:
        self._client = client
        self._mirror = mirror
        self._orders = orders
        self._wishes: dict[str, Wish | None] = {}
        self._own = trio.Event()
        self._missing: dict[str, float] = {}

    def soon(self) -> None:
        """A job was brought here: place it now."""
        self._own.set()

    async def run(self) -> None:
        """See to the queue, and to those who are gone, for ever."""
        await self._mirror.whole()
        while True:
            self._own, news, changed = trio.Event(), self._mirror.news, False
            try:
                changed = await self._place() | await self._see_to_the_gone()
            except EtcdError as exc:
                log.info("the queue of the pool cannot be seen to now", error=str(exc))
            except PoolDataError as exc:
                log.error("the queue of the pool cannot be seen to: a record is damaged", error=str(exc))
            with trio.move_on_after(0.0 if changed else GRACE if self._missing else 60.0):
                await news.wait()
            with trio.move_on_after(random.uniform(0.0, PATIENCE)):  # noqa: S311 # jitter, not a secret
                await self._own.wait()

    # ---- the queue

    def candidates(self) -> list[Candidate]:
        """The workers that are there, and what they have."""
        at = self._mirror.at
        drained = {at.worker_of(key) for key in self._mirror.drains.keys}
        taken = Counter(map(_of_worker, self._mirror.assignments.keys))
        there = [
            (worker, decode(Session, up.key, up.value))
            for worker, up in sorted(self._mirror.sessions_by_worker().items())
        ]
        return [
            Candidate(worker, session, taken[at.assignments(worker)] + session.own, worker in drained)
            for worker, session in there
        ]

    async def why(self, job_id: str) -> str:
        """Why a job waits, for people."""
        wish = await self._wish(job_id)
        return "" if wish is None else self.why_with(wish)

    def why_with(self, wish: Wish) -> str:
        """Why a job waits that needs this of its worker; "it is about to be placed", as far as is known."""
        gone = len(self._mirror.members.keys) - len(self._mirror.sessions.keys)
        return why(wish, self.candidates(), gone=max(gone, 0), frozen=self._mirror.frozen)

    async def _wish(self, job_id: str) -> Wish | None:
        if job_id not in self._wishes:
            try:
                order = await self._orders(job_id)
                if order is None:
                    return None
                self._wishes[job_id] = Wish.of(order)
            except (ValueError, PoolDataError) as exc:  # it waits, and holds up no others
                log.error("what a job of the pool is to run is damaged", job=job_id, error=str(exc))
                self._wishes[job_id] = None
        return self._wishes[job_id]

    async def _place(self) -> bool:
        """Place what can be placed; whether something was."""
        mirror = self._mirror
        if not mirror.queue.keys:  # as most of the time: with many machines a look at all of them takes long
            self._wishes = {}
            return False
        queue = {mirror.at.job_of(each.key): each for each in sorted(mirror.queue.keys.values(), key=steps.place_of)}
        self._wishes = {job: wish for job, wish in self._wishes.items() if job in queue}
        waiting = []
        for job in queue:
            wish = await self._wish(job)
            if wish is not None:
                waiting.append(Waiting(job, wish))
        chosen = placements(waiting, self.candidates(), frozen=mirror.frozen, most=AT_ONCE)
        held = []

        async def place(job: str, worker: str) -> None:
            up = mirror.sessions_by_worker().get(worker)
            at = mirror.jobs.keys.get(mirror.at.state(job))
            if up is None or at is None:
                return
            uid = decode(Session, up.key, up.value).uid
            outcome = await self._client.txn(steps.place(mirror.at, Found.of(mirror.at, at), queue[job], up, uid))
            if outcome.held:
                held.append(job)
                log.debug("a job was placed", job=job, worker=worker)

        async with trio.open_nursery() as nursery:
            for job, worker in chosen:
                nursery.start_soon(self._try, place, job, worker)
        return bool(held)

    # ---- those who are gone

    async def _see_to_the_gone(self) -> bool:
        left, now = self._left(), trio.current_time()
        self._missing = {found.state.worker: self._missing.get(found.state.worker, now) for found in left}
        jobs = [found for found in left if now - self._missing[found.state.worker] >= GRACE]
        held = []

        async def see_to(found: Found) -> None:
            outcome = await self._client.txn(ends.gone(self._mirror.at, found, time.time_ns()))
            if outcome.held:
                held.append(found)
                what = "it cannot be reached" if found.state.phase == Phase.CLAIMED else "it waits again"
                log.warning("the worker of a job is gone", job=found.id, worker=found.state.worker, then=what)

        async with trio.open_nursery() as nursery:
            for found in jobs[:AT_ONCE]:
                nursery.start_soon(self._try, see_to, found)
        return bool(held)

    def _left(self) -> list[Found]:
        """The jobs of workers that have no session, but for those that are said to be unreachable already."""
        at, jobs = self._mirror.at, self._mirror.jobs.keys
        there = {at.assignments(worker) for worker in self._mirror.sessions_by_worker()}
        alone = [key for key in self._mirror.assignments.keys if _of_worker(key) not in there]
        states = [(at.worker_of(key), jobs.get(at.state(at.job_of(key)))) for key in alone]
        left = [(worker, Found.of(at, state)) for worker, state in states if state]
        return [found for worker, found in left if found.state.worker == worker and _is_left(found)]

    @staticmethod
    async def _try(step: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Do it; what fails is seen to the next time."""
        try:
            await step(*arguments)
        except (EtcdError, PoolDataError) as exc:
            log.info("a step of the pool was not done", error=str(exc))


def _of_worker(assigned: bytes) -> bytes:
    """What all assignments of its worker begin with. (Of many thousands no more than this is looked at each time.)"""
    return assigned[: assigned.rindex(b"/") + 1]


def _is_left(found: Found) -> bool:
    return found.state.phase in (Phase.ASSIGNED, Phase.CLAIMED) and not found.state.unreachable
