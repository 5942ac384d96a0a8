"""What etcd answers: its messages in our words.

The numbers are those of etcdserverpb/rpc.proto and mvccpb/kv.proto. A tag is a field's number and its type on the wire
(number << 3 | type), so a field that came with another type than it has counts as unknown, and is skipped as those are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from api.protobuf import MalformedMessageError, read_varint
from api.rpc.codec import Buffer
from jobd.pools.etcd.transaction import KeyValue, Outcome

_VARINT: Final = 0
_LENGTH: Final = 2
_SIZES: Final = {1: 8, 5: 4}
"""Bytes of a value of each further type; none of etcd's fields has one."""
_MALFORMED: Final = "the bytes are no message of etcd's"


@dataclass(frozen=True, slots=True)
class Range:
    """RangeResponse.

    Attributes:
        revision: of the store, when it was read.
        more: there are further keys, which the limit left out.
    """

    found: tuple[KeyValue, ...]
    revision: int
    more: bool


@dataclass(frozen=True, slots=True)
class Deleted:
    """A key was deleted, at this revision."""

    key: bytes
    modified: int


Change = KeyValue | Deleted


@dataclass(frozen=True, slots=True)
class Watched:
    """WatchResponse.

    Attributes:
        created: the watch has begun.
        canceled: it has ended, by etcd.
        compacted: the oldest revision that is kept, when that is why.
        reason: why it has ended, in etcd's words.
        fragment: further changes of the same revision come with the next one.
    """

    changes: tuple[Change, ...]
    revision: int
    created: bool
    canceled: bool
    compacted: int
    reason: str
    fragment: bool


LOSES: Final = frozenset({"3.5.0", "3.5.1", "3.5.2"})
"""Releases of etcd a member of which that was killed can go on without some of what it has confirmed, and give other
answers than the rest (etcd-io/etcd#13766): no pool is right on those."""


@dataclass(frozen=True, slots=True)
class Status:
    """StatusResponse: how a member is.

    Attributes:
        version: of etcd.
        size: bytes of its store on disk.
        leader: the member that is the leader, 0 when it knows none.
        member: itself.
    """

    version: str
    size: int
    leader: int
    member: int


def outcome(data: Buffer) -> Outcome:
    """TxnResponse: header, succeeded, responses."""
    revision, held = 0, False
    found: list[KeyValue | None] = []
    for tag, value in _cut(data):
        if tag == 0x0A:
            revision = _header(value)[1]
        elif tag == 0x10:
            held = bool(value)
        elif tag == 0x1A:  # ResponseOp; a Get's is a RangeResponse with one key or none
            found += (_first(part) for kind, part in _cut(value) if kind == 0x0A)
    return Outcome(held, revision, tuple(found))


def _first(data: Buffer) -> KeyValue | None:
    for tag, value in _cut(data):
        if tag == 0x12:
            return _key_value(value)
    return None


def ranged(data: Buffer) -> Range:
    """RangeResponse: header, kvs, more."""
    revision, more = 0, False
    found: list[KeyValue] = []
    for tag, value in _cut(data):
        if tag == 0x12:
            found.append(_key_value(value))
        elif tag == 0x0A:
            revision = _header(value)[1]
        elif tag == 0x18:
            more = bool(value)
    return Range(tuple(found), revision, more)


def lease_seconds(data: Buffer) -> int:
    """TTL of LeaseGrantResponse and LeaseKeepAliveResponse, which for a lease that is gone is 0."""
    for tag, value in _cut(data):
        if tag == 0x18:
            return int(value)
    return 0


def watched(data: Buffer) -> Watched:
    """WatchResponse: header, created, canceled, compact_revision, cancel_reason, fragment, events."""
    values = dict.fromkeys((0x18, 0x20, 0x28, 0x38), 0)
    revision, reason = 0, ""
    changes: list[Change] = []
    for tag, value in _cut(data):
        if tag == 0x5A:
            changes.append(_event(value))
        elif tag == 0x0A:
            revision = _header(value)[1]
        elif tag == 0x32:
            reason = str(value, "utf-8", "replace")
        elif tag in values:
            values[tag] = value
    created, canceled, compacted, fragment = values.values()
    return Watched(tuple(changes), revision, bool(created), bool(canceled), compacted, reason, bool(fragment))


def _event(data: Buffer) -> Change:
    """Event: type, kv."""
    deleted, at = False, KeyValue(b"", b"", 0, 0)
    for tag, value in _cut(data):
        if tag == 0x12:
            at = _key_value(value)
        elif tag == 0x08:
            deleted = value == 1
    return Deleted(at.key, at.modified) if deleted else at


def status(data: Buffer) -> Status:
    """StatusResponse: header, version, dbSize, leader."""
    version, size, leader, member = "", 0, 0, 0
    for tag, value in _cut(data):
        if tag == 0x0A:
            member = _header(value)[0]
        elif tag == 0x12:
            version = str(value, "utf-8", "replace")
        elif tag == 0x18:
            size = value
        elif tag == 0x20:
            leader = value
    return Status(version, size, leader, member)


def _header(data: Buffer) -> tuple[int, int]:
    """ResponseHeader: the member, and the revision."""
    member = revision = 0
    for tag, value in _cut(data):
        if tag == 0x10:
            member = value
        elif tag == 0x18:
            revision = value
    return member, revision


def _key_value(data: Buffer) -> KeyValue:
    """KeyValue: key, create_revision, mod_revision, value, lease."""
    key = content = b""
    created = modified = lease = 0
    for tag, value in _cut(data):
        if tag == 0x0A:
            key = bytes(value)
        elif tag == 0x10:
            created = value
        elif tag == 0x18:
            modified = value
        elif tag == 0x2A:
            content = bytes(value)
        elif tag == 0x30:
            lease = value
    return KeyValue(key, content, created, modified, lease)


def _cut(data: Buffer) -> Iterator[tuple[int, Any]]:
    """Tag and value of each field in turn: a number, or bytes.

    Raises:
        MalformedMessageError: the bytes are no message.
    """
    at, end = 0, len(data)
    value: Any
    while at < end:
        try:
            tag = data[at]
            at += 1
            if tag > 127:
                tag, at = read_varint(data, at - 1)
            kind = tag & 7
            if kind == _LENGTH:
                size = data[at]
                at += 1
                if size > 127:
                    size, at = read_varint(data, at - 1)
                value = data[at : at + size]
                at += size
            elif kind == _VARINT:
                value = data[at]
                at += 1
                if value > 127:
                    value, at = read_varint(data, at - 1)
            else:
                value = 0
                at += _SIZES[kind]
        except (IndexError, KeyError, ValueError) as exc:
            raise MalformedMessageError(_MALFORMED) from exc
        if at > end:
            raise MalformedMessageError(_MALFORMED)
        yield tag, value
