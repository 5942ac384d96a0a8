"""An etcd in memory: what its transactions, revisions, leases and watches mean, and what it refuses.

:func:`apply` is the meaning of a transaction, without anything around it: a model can search what follows from it.
:class:`MemoryEtcd` is a store made of it, whose calls can fail with or without having been done.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import trio

from api.errors import UnavailableError
from jobd.pools.etcd.transaction import Delete, Get, KeyValue, Outcome, Page, Put, Txn

MAX_STEPS = 128
MAX_REQUEST = 1536 * 1024

Kvs = Mapping[bytes, KeyValue]


class RefusedError(Exception):
    """etcd would refuse this, whatever it holds."""


class CompactedError(Exception):
    """The revision asked for is no longer there."""


def check(txn: Txn) -> None:
    """See that etcd would take it.

    Raises:
        RefusedError: two writes of one key, too many steps, or too large.
    """
    for branch in (txn.then, txn.otherwise):
        written = [step.key for step in branch if not isinstance(step, Get)]
        if len(set(written)) < len(written):
            raise RefusedError("duplicate key given in txn request")
        if len(branch) > MAX_STEPS:
            raise RefusedError("too many operations in txn request")
    if len(txn.when) > MAX_STEPS:
        raise RefusedError("too many operations in txn request")
    size = sum(len(step.key) + len(getattr(step, "value", b"")) for step in (*txn.then, *txn.otherwise))
    if size > MAX_REQUEST:
        raise RefusedError("request is too large")


def holds(kvs: Kvs, txn: Txn) -> bool:
    """All its compares hold."""
    for compare in txn.when:
        at = kvs.get(compare.key)
        present = 0 if at is None else at.created if compare.what == "created" else at.modified
        if present != compare.revision:
            return False
    return True


def apply(kvs: Kvs, revision: int, txn: Txn) -> tuple[Outcome, Kvs]:
    """What a store that holds this answers, and what it holds then.

    Args:
        revision: of the store, before.
    """
    held = holds(kvs, txn)
    branch = txn.then if held else txn.otherwise
    writes = any(isinstance(step, Put) or (isinstance(step, Delete) and step.key in kvs) for step in branch)
    now, found = revision + writes, []
    after = dict(kvs) if writes else kvs
    for step in branch:
        if isinstance(step, Get):
            found.append(after.get(step.key))
            continue
        assert isinstance(after, dict) or step.key not in after
        if isinstance(step, Put):
            before = after.get(step.key)
            created = before.created if before else now
            after[step.key] = KeyValue(step.key, step.value, created, now, step.lease)  # type: ignore[index]
        elif step.key in after:
            del after[step.key]  # type: ignore[attr-defined]
    return Outcome(held, now, tuple(found)), after


class Fate(enum.Enum):
    """What becomes of a transaction whose sender hears nothing of it."""

    DONE = "done, and not told"
    NOT_DONE = "never done"
    LATE = "done later: by MemoryEtcd.arrive"


@dataclass(frozen=True, slots=True)
class Event:
    """A key was written, or (then it is None) deleted."""

    key: bytes
    revision: int
    now: KeyValue | None


@dataclass
class MemoryEtcd:
    """A :class:`jobd.pools.etcd.transaction.Store`.

    Attributes:
        doubts: what becomes of the next transactions; one that is in it fails as UNAVAILABLE.
    """

    revision: int = 1
    kvs: Kvs = field(default_factory=dict)
    doubts: list[Fate] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._past: dict[int, Kvs] = {self.revision: self.kvs}
        self._events: list[Event] = []
        self._compacted = 0
        self._changed = trio.Event()
        self._leases: set[int] = set()
        self._late: list[Txn] = []

    # ---- the store

    async def txn(self, txn: Txn) -> Outcome:
        await trio.lowlevel.checkpoint()
        check(txn)
        fate = self.doubts.pop(0) if self.doubts else None
        if fate is None:
            return self._do(txn)
        if fate is Fate.DONE:
            self._do(txn)
        elif fate is Fate.LATE:
            self._late.append(txn)
        raise UnavailableError("etcd did not answer")

    async def get(self, key: bytes) -> KeyValue | None:
        await trio.lowlevel.checkpoint()
        return self.kvs.get(key)

    async def page(self, prefix: bytes, *, after: bytes = b"", revision: int = 0, size: int = 200) -> Page:
        await trio.lowlevel.checkpoint()
        kvs = self._at(revision) if revision else self.kvs
        keys = sorted(key for key in kvs if key.startswith(prefix) and key > after)
        return Page(tuple(kvs[key] for key in keys[:size]), revision or self.revision, len(keys) > size)

    # ---- what else etcd does

    def arrive(self) -> None:
        """What was sent before, and comes late, is done now."""
        while self._late:
            self._do(self._late.pop(0))

    def grant(self, lease: int) -> None:
        """Make a lease of one's own number; again, it is the same."""
        self._leases.add(lease)

    def expire(self, lease: int) -> None:
        """A lease ends, and its keys with it, at one revision."""
        self._leases.discard(lease)
        keys = [key for key, at in self.kvs.items() if at.lease == lease]
        self._do(Txn((), tuple(Delete(key) for key in keys)))

    def compact(self) -> None:
        """Forget what was before the present revision."""
        self._compacted = self.revision
        self._past = {self.revision: self.kvs}
        self._events = [event for event in self._events if event.revision >= self.revision]

    async def watch(self, prefix: bytes, *, since: int) -> AsyncIterator[Event]:
        """What becomes of keys that begin with a prefix, from a revision on.

        Raises:
            CompactedError: of that, some is no longer known.
        """
        while True:
            if since < self._compacted:
                raise CompactedError
            changed, known = self._changed, [each for each in self._events if each.revision >= since]
            since = max(since, self.revision + 1)
            for event in known:
                if event.key.startswith(prefix):
                    yield event
            await changed.wait()

    def _at(self, revision: int) -> Kvs:
        if revision < self._compacted:
            raise CompactedError
        return self._past[max(known for known in self._past if known <= revision)]

    def _do(self, txn: Txn) -> Outcome:
        branch = txn.then if holds(self.kvs, txn) else txn.otherwise
        if any(isinstance(step, Put) and step.lease and step.lease not in self._leases for step in branch):
            raise RefusedError("requested lease not found")
        outcome, after = apply(self.kvs, self.revision, txn)
        for key in sorted(key for key in {**self.kvs, **after} if self.kvs.get(key) != after.get(key)):
            self._events.append(Event(key, outcome.revision, after.get(key)))
        self.kvs, self.revision = after, outcome.revision
        self._past[self.revision] = after
        self._changed.set()
        self._changed = trio.Event()
        return outcome
