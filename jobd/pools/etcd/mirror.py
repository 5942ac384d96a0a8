"""What a broker knows of the pool without asking: the small records, as etcd's watches tell of them.

It may be a moment old, and the parts of it of different moments; every step compares what it rests on, so that costs a
step and nothing else. What must not be old is asked of etcd itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar

import structlog
import trio

from jobd.pools.etcd.answers import Deleted
from jobd.pools.etcd.client import Client
from jobd.pools.etcd.codec import Record, decode
from jobd.pools.etcd.errors import EtcdError
from jobd.pools.etcd.keys import Keys
from jobd.pools.etcd.pool_errors import PoolDataError
from jobd.pools.etcd.records import Member, Session
from jobd.pools.etcd.steps import Found, place_of
from jobd.pools.etcd.tally import Tally
from jobd.pools.etcd.transaction import KeyValue
from jobd.pools.etcd.watch import Listed, Watch

REFUSED: Final = 5.0
"""Seconds until etcd is asked again that has refused us."""

log = structlog.get_logger(__name__)


T = TypeVar("T")


class Part(Generic[T]):
    """The keys with one prefix."""

    def __init__(
        self,
        prefix: bytes,
        told: Callable[[], None],
        read: Callable[[KeyValue], T],
        heard: Callable[[bytes, T | None], None] = lambda key, found: None,
    ) -> None:
        """
        Args:
            read: raises PoolDataError when a key, or what it holds, is none of the pool's. Such a one is said, and left
                out: one that is damaged must not hold up the others.
            heard: called with each key that is new, or other than before, and what was read there; None when it is
                gone. It may know more than ``keys``, while these are listed anew.
        """
        self.prefix = prefix
        self._read = read
        self.keys: dict[bytes, KeyValue] = {}
        self.whole = trio.Event()
        self._told = told
        self._heard = heard
        self._listing: dict[bytes, KeyValue] = {}
        self._waiting: dict[bytes, trio.Event] = {}
        self.watch: Watch | None = None

    async def run(self, client: Client) -> None:
        """Follow them for ever."""
        async with Watch(client, self.prefix) as self.watch:
            while True:
                try:
                    event = await self.watch.receive()
                except EtcdError as exc:  # etcd refuses us: an operator has to see to that
                    log.error("the pool cannot be followed", prefix=self.prefix.decode(), error=str(exc))
                    await trio.sleep(REFUSED)
                    continue
                if isinstance(event, Listed):
                    self._list(event)
                else:
                    for change in event.changes:
                        self._change(change)
                self._told()

    def _list(self, page: Listed) -> None:
        if page.first:
            self._hear_gone(self._listing, self.keys)  # of a list that was broken off
            self._listing = {}
        for each in page.found:
            found = self._whole(each)
            if found is not None:
                self._listing[each.key] = each
                self._heard(each.key, found)
        if page.last:
            before, self.keys, self._listing = self.keys, self._listing, {}
            self._hear_gone(before, self.keys)
            for key in before.keys() | self.keys.keys():
                self._wake(key)
            self.whole.set()

    def _hear_gone(self, before: Mapping[bytes, KeyValue], now: Mapping[bytes, KeyValue]) -> None:
        for key in before.keys() - now.keys():
            self._heard(key, None)

    def _change(self, change: KeyValue | Deleted) -> None:
        found = self._whole(change) if isinstance(change, KeyValue) else None
        if isinstance(change, KeyValue) and found is not None:
            self.keys[change.key] = change
        else:
            self.keys.pop(change.key, None)
        self._heard(change.key, found)
        self._wake(change.key)

    def _whole(self, at: KeyValue) -> T | None:
        """What is read there; None when it is damaged."""
        try:
            return self._read(at)
        except PoolDataError as exc:
            log.error("a record of the pool is damaged, and left alone", error=str(exc))
            return None

    def _wake(self, key: bytes) -> None:
        event = self._waiting.pop(key, None)
        if event is not None:
            event.set()

    async def changed(self, key: bytes) -> None:
        """Wait until something is heard of a key."""
        await self._waiting.setdefault(key, trio.Event()).wait()

    def below(self, prefix: bytes) -> Iterator[KeyValue]:
        """Those that begin with a longer prefix."""
        return (each for key, each in self.keys.items() if key.startswith(prefix))


class Mirror:
    """All of it. Made for one client; :meth:`run` is its life."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self.at = keys
        self._changed = trio.Event()
        self.tally = Tally(keys)
        self.members = Part(keys.members, self._tell, lambda at: (keys.worker_of(at.key), _read(Member, at)))
        self.sessions = Part(keys.sessions, self._tell, lambda at: (keys.worker_of(at.key), _read(Session, at)))
        self.drains = Part(keys.drains, self._tell, lambda at: keys.worker_of(at.key))
        self.jobs = Part(keys.states, self._tell, lambda at: Found.of(keys, at), self.tally.heard)
        self.queue = Part(keys.queue, self._tell, lambda at: (keys.job_of(at.key), place_of(at)))
        self.assignments = Part(
            keys.assignments(), self._tell, lambda at: (keys.worker_of(at.key), keys.job_of(at.key))
        )
        self.freezes = Part(keys.frozen, self._tell, lambda at: keys.freeze_of(at.key))
        self._parts: tuple[Part[Any], ...] = (
            self.members,
            self.sessions,
            self.drains,
            self.jobs,
            self.queue,
            self.assignments,
            self.freezes,
        )

    async def run(self) -> None:
        """Follow everything for ever."""
        async with trio.open_nursery() as nursery:
            for part in self._parts:
                nursery.start_soon(part.run, self._client)

    async def whole(self) -> None:
        """Wait until all was heard of once."""
        for part in self._parts:
            await part.whole.wait()

    @property
    def is_whole(self) -> bool:
        """All was heard of once."""
        return all(part.whole.is_set() for part in self._parts)

    @property
    def connected(self) -> bool:
        """What is known is at most a moment old."""
        return all(part.watch is not None and part.watch.connected for part in self._parts)

    @property
    def frozen(self) -> bool:
        """Nothing is placed or claimed."""
        return self.at.frozen in self.freezes.keys

    @property
    def news(self) -> trio.Event:
        """Set when something more is heard of than is known now. Whoever acts on what is known asks for it before: what
        comes while they do is news, too."""
        return self._changed

    def _tell(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def sessions_by_worker(self) -> Mapping[str, KeyValue]:
        """The sessions that there are."""
        return {self.at.worker_of(each.key): each for each in self.sessions.keys.values()}


def _read(kind: type[Record], at: KeyValue) -> Record:
    return decode(kind, at.key, at.value)
