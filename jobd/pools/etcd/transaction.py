"""What is asked of etcd in one step, and what it answers (its Txn RPC), without how that goes over the wire.

The rules of the pool are written in these words; so they can be read, and searched by a model, without any etcd.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key that is there.

    Attributes:
        created: the revision of the store that made the key; another one after it was deleted and made again.
        modified: the revision that last wrote it.
        lease: with whose end it goes; 0 for none.
    """

    key: bytes
    value: bytes
    created: int
    modified: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Compare:
    """The key's revision of this kind is exactly this one: 0 when the key is not there."""

    key: bytes
    what: Literal["created", "modified"]
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """Write a key, with a lease or (0) without."""

    key: bytes
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a key, if it is there."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Get:
    """Read a key as it is at that moment, if it is there."""

    key: bytes


Step = Put | Delete | Get


@dataclass(frozen=True, slots=True)
class Txn:
    """If all compares hold, the steps of ``then``, else those of ``otherwise``: all at one revision.

    etcd refuses two writes of one key in one transaction.
    """

    when: tuple[Compare, ...]
    then: tuple[Step, ...]
    otherwise: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a transaction.

    Attributes:
        held: the compares did.
        revision: of the store, after it.
        found: what each Get of the branch that was taken found, in their order.
    """

    held: bool
    revision: int
    found: tuple[KeyValue | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """Keys, in their order, as they were at one revision.

    Attributes:
        more: there are further ones, after the last of these.
    """

    found: tuple[KeyValue, ...]
    revision: int
    more: bool = False


class Store(Protocol):
    """etcd, or a stand-in for it. Each call may fail without anybody knowing whether it was done."""

    async def txn(self, txn: Txn) -> Outcome:
        """Do it, at most once."""

    async def get(self, key: bytes) -> KeyValue | None:
        """A key, if it is there; not older than what was written before the call (linearizable)."""

    async def page(self, prefix: bytes, *, after: bytes = b"", revision: int = 0, size: int = 200) -> Page:
        """At most ``size`` keys that begin with a prefix, from the one after ``after`` on.

        Args:
            revision: as they were then; 0 for now.
        """


def absent(key: bytes) -> Compare:
    """The key is not there. Neither its value nor its lease could say so."""
    return Compare(key, "created", 0)


def created(at: KeyValue) -> Compare:
    """It is still the same one, though it may have been written again."""
    return Compare(at.key, "created", at.created)


def unchanged(at: KeyValue) -> Compare:
    """Nobody has written it since."""
    return Compare(at.key, "modified", at.modified)
