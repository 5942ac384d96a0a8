"""A lease that is kept alive, and a key that lives as long: what says to others that this machine is there.

It has a thread, an event loop and a connection of its own, so that no work of this program's can lose it. Whether it is
held is judged here by the time since a keepalive was *sent*, on a clock that goes on while the machine sleeps; it ends
here before it ends in etcd. (It proves nothing about the jobs of this machine: what must not happen twice rests on keys
without a lease.)
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from api.background import background_nursery
from api.retry import Retry
from jobd.pools.etcd.client import Client, open_client
from jobd.pools.etcd.endpoints import Etcd
from jobd.pools.etcd.errors import EtcdError, LeaseGoneError
from jobd.pools.etcd.transaction import Store

TTL: Final = 15
"""Seconds that others wait for a sign of life. A restarted etcd gives each lease all of them again."""
KEEPALIVE: Final = 4.0
"""Seconds between signs of life."""
AGAIN: Final = 0.5
"""Seconds until the next one, when one failed."""

Register = Callable[[Store, int], Awaitable[int]]
"""Puts what lives with a lease, and gives its epoch. Fails as the store does, and is then called again, with the same
lease or, when that has ended, with another: what was put before may be there or not."""

log = structlog.get_logger(__name__)


def boottime() -> float:
    """Seconds on a clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Held:
    """What is held, and until when by :func:`boottime`."""

    lease: int
    epoch: int
    until: float


class LeaseSession:
    """A lease as the program sees it. Made by :func:`open_session`."""

    def __init__(self, etcd: Etcd, register: Register, *, ttl: int, keepalive: float) -> None:
        self._etcd = etcd
        self._register = register
        self._ttl = ttl
        self._keepalive = keepalive
        self._held: Held | None = None  # written by the thread, each time as a whole
        self._told = ""
        self._owner = trio.lowlevel.current_trio_token()
        self._changed = trio.Event()
        self._over = trio.Event()
        self._started = trio.Event()
        self._scope = trio.CancelScope()
        self._thread: trio.lowlevel.TrioToken

    # ---- the program's side

    @property
    def epoch(self) -> int | None:
        """What tells this session from every other one; None while there is none."""
        held = self._held
        return held.epoch if held and boottime() < held.until else None

    async def wait_held(self) -> int:
        """Wait until there is a session; its epoch."""
        while (epoch := self.epoch) is None:
            await self._changed.wait()
        await trio.lowlevel.checkpoint()
        return epoch

    async def stop(self) -> None:
        """End the thread; the lease then ends by itself."""
        await self._started.wait()
        # RunFinishedError: it has ended already
        with contextlib.suppress(trio.RunFinishedError):
            self._thread.run_sync_soon(self._scope.cancel)
        await self._over.wait()

    def _wake(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    # ---- the thread's side

    async def main(self) -> None:
        """Hold a session, and another when it is lost, until stopped."""
        self._thread = trio.lowlevel.current_trio_token()
        self._owner.run_sync_soon(self._started.set)
        try:
            async with open_client(self._etcd) as client:
                with self._scope:
                    await self._go_on(client)
        finally:
            self._owner.run_sync_soon(self._over.set)

    async def _go_on(self, client: Client) -> None:
        retry = Retry(float("inf"))
        while True:
            held = await self._begin(client)
            if held is None:
                await retry.pause()
                continue
            retry.reset()
            log.info("etcd session begun", epoch=held.epoch)
            reason = await self._hold(client, held)
            self._publish(None)
            log.warning("etcd session lost", epoch=held.epoch, reason=reason)

    async def _begin(self, client: Client) -> Held | None:
        """A new lease, and what lives with it, within the lease's time."""
        lease, begun = 1 + secrets.randbelow(2**63 - 1), boottime()
        retry = Retry(self._ttl)
        while boottime() < begun + self._ttl:
            try:
                ttl = await client.lease_grant(lease, self._ttl)
                epoch = await self._register(client, lease)
            except LeaseGoneError:
                return None
            except EtcdError as exc:
                self._tell("etcd session not begun", exc)
                if not await retry.pause():
                    return None
            else:
                held = Held(lease, epoch, begun + min(ttl, self._ttl))
                self._publish(held)
                self._told = ""
                return held
        return None

    async def _hold(self, client: Client, held: Held) -> str:
        """Keep the lease until it is lost; why it was."""
        pause = self._keepalive
        while True:
            await trio.sleep(max(min(pause, held.until - boottime()), 0))
            sent = boottime()
            if sent >= held.until:
                return "no keepalive was answered in time"
            pause = AGAIN
            with trio.move_on_after(held.until - sent):
                try:
                    ttl = await client.lease_keep_alive(held.lease)
                except EtcdError as exc:
                    self._tell("etcd keepalive failed", exc)
                else:
                    if not ttl:
                        return "etcd has ended the lease"
                    held = Held(held.lease, held.epoch, sent + min(ttl, self._ttl))
                    self._held = held
                    pause = self._keepalive
                    self._told = ""

    def _tell(self, event: str, exc: EtcdError) -> None:
        """Once for each reason: it may be tried many times."""
        if str(exc) != self._told:
            self._told = str(exc)
            log.warning(event, reason=self._told)

    def _publish(self, held: Held | None) -> None:
        self._held = held
        self._owner.run_sync_soon(self._wake)


@asynccontextmanager
async def open_session(
    etcd: Etcd, register: Register, *, ttl: int = TTL, keepalive: float = KEEPALIVE
) -> AsyncIterator[LeaseSession]:
    """Hold a session for the length of the block, whatever becomes of etcd meanwhile.

    After the block the lease ends by itself: a server that is about to be started again keeps its place.

    Args:
        register: run in the session's thread. What else than an EtcdError it raises ends the block with it.
        ttl: seconds.
        keepalive: seconds; several fit into ``ttl``.
    """
    session = LeaseSession(etcd, register, ttl=ttl, keepalive=keepalive)
    async with background_nursery() as nursery:
        nursery.start_soon(_run, session)
        try:
            yield session
        finally:
            await _end(session)


async def _end(session: LeaseSession) -> None:
    with trio.CancelScope(shield=True):
        await session.stop()


async def _run(session: LeaseSession) -> None:
    # A limiter of its own: as long as it lives, it must not keep others from a thread. Shielded, so that it begins in
    # any case: whoever ends it waits for that.
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(trio.run, session.main, limiter=trio.CapacityLimiter(1))
