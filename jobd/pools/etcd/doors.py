"""Whether a worker takes new jobs: not while it cannot write down that it will run one, nor where its own jobs are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog
import trio

from api.retry import Retry
from jobd.pools.etcd.client import Client
from jobd.pools.etcd.codec import decode
from jobd.pools.etcd.errors import EtcdError
from jobd.pools.etcd.keys import Keys
from jobd.pools.etcd.membership import change_session
from jobd.pools.etcd.pool_errors import PoolDataError
from jobd.pools.etcd.records import Session

log = structlog.get_logger(__name__)

CLOSED: Final = 5.0
"""Seconds, at least, for which no job is taken; then one is tried."""
LONGEST: Final = 60.0
TRIED: Final = 3.0
"""Seconds for which it is tried to say that no job is taken, or not so many."""
COUNTED: Final = 5.0
"""Seconds between two looks at how many jobs of its own a worker has."""


class Doors:
    """Of one worker; :meth:`run` opens them again. That they are closed is said in the worker's session: one that is
    made anew has them open, so what it says is looked at each time. So it is with how many slots its own jobs have."""

    def __init__(self, client: Client, keys: Keys, worker: str, own: Callable[[], int] = lambda: 0) -> None:
        """
        Args:
            own: how many jobs the worker has that are not assigned to it.
        """
        self._client = client
        self._key = keys.session(worker)
        self._closed = trio.Event()
        self._pause = CLOSED
        self._own = own
        self._told = 0
        self._saying = trio.Lock()  # one thing at a time: the later one stays

    async def close(self) -> None:
        """Say that no job is taken now. Brokers that have not heard of it may give some all the same; so may all, when
        etcd does not take it within a few seconds: whoever calls this has a job to give back."""
        if not self._closed.is_set():
            log.warning("no job of the pool is taken for now: this machine cannot record one")
        self._closed.set()
        try:
            with trio.move_on_after(TRIED):
                await self._say(accepting=False)
        finally:
            self._closed.set()  # they may have been opened before this was said

    async def full(self) -> None:
        """Say how many slots are left, since there was none for a job: it would be given to us again at once. As for
        :meth:`close`, whoever calls this has that job to give back."""
        with trio.move_on_after(TRIED):
            await self._say()

    async def run(self) -> None:
        """Open them again, and say how many jobs of its own the worker has, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._count)
            await self._open()

    async def _count(self) -> None:
        """Such jobs can only end, so this is said seldom."""
        while True:
            await trio.sleep(COUNTED)
            if self._own() != self._told:
                await self._say()

    async def _open(self) -> None:
        """Try again after a while, for ever; after a longer one, when that was soon too early."""
        while True:
            with trio.move_on_after(LONGEST):
                await self._closed.wait()
            if not self._closed.is_set():
                self._pause = CLOSED
                await self._say(accepting=True)  # what was cut when it was closed may have been said later than this
                await self._closed.wait()
            await trio.sleep(self._pause)
            self._pause = min(2 * self._pause, LONGEST)
            self._closed = trio.Event()  # before it is said: who closes them meanwhile is heard
            await self._say(accepting=True)

    async def _say(self, *, accepting: bool | None = None) -> None:
        """Until it is said, or there is no session to say it in, or what is to be opened has been closed again."""
        retry = Retry(math.inf)
        while not (accepting and self._closed.is_set()):
            try:
                if await self._said(accepting=accepting):
                    return
            except (EtcdError, PoolDataError) as exc:
                log.info("it could not be said whether jobs are taken", error=str(exc))
            await retry.pause()

    async def _said(self, *, accepting: bool | None) -> bool:
        async with self._saying:
            up = await self._client.get(self._key)
            if up is None:
                return True
            session = decode(Session, up.key, up.value)
            own = self._own()
            says = replace(session, own=own, accepting=session.accepting if accepting is None else accepting)
            if says != session and not (await self._client.txn(change_session(up, says))).held:
                return False
            self._told = own
            return True
