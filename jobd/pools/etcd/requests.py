"""What we ask etcd, as its messages.

The numbers are those of etcdserverpb/rpc.proto (the same since etcd 3.0; ``fragment`` since 3.4). By hand, because this
is on the way of every step of every job: with betterproto's classes, even through ``api.protobuf``, it costs several
times as much (``python -m tests.benchmarks --only etcd``).
"""

from __future__ import annotations

from typing import Final

from api.protobuf import varint
from jobd.pools.etcd.transaction import Compare, Delete, Get, Put, Step, Txn


def txn(asked: Txn) -> bytes:
    """TxnRequest."""
    return b"".join(
        [
            *(_message(b"\x0a", _compare(each)) for each in asked.when),
            *(_message(b"\x12", _step(each)) for each in asked.then),
            *(_message(b"\x1a", _step(each)) for each in asked.otherwise),
        ]
    )


_TARGETS: Final = {
    "created": (b"\x10\x01\x1a", b"\x28"),  # target = CREATE, then the tags of key and create_revision
    "modified": (b"\x10\x02\x1a", b"\x30"),  # target = MOD, then those of key and mod_revision
}


def _compare(compare: Compare) -> bytes:
    """Compare; its result is EQUAL, which is 0."""
    key, revision = _TARGETS[compare.what]
    # The revision stands in a oneof: it is written also when it is 0.
    return key + varint(len(compare.key)) + compare.key + revision + varint(compare.revision)


def _step(step: Step) -> bytes:
    """RequestOp."""
    match step:
        case Put():
            return _message(b"\x12", _put(step))
        case Delete():
            return _message(b"\x1a", delete(step.key))
        case Get():
            return _message(b"\x0a", _message(b"\x0a", step.key))  # RangeRequest.key


def delete(key: bytes) -> bytes:
    """DeleteRangeRequest: key."""
    return _message(b"\x0a", key)


def _put(put: Put) -> bytes:
    """PutRequest: key, value, lease."""
    lease = b"\x18" + varint(put.lease) if put.lease else b""
    return _message(b"\x0a", put.key) + _message(b"\x12", put.value) + lease


def range_(key: bytes, end: bytes = b"", *, limit: int = 0, revision: int = 0) -> bytes:
    """RangeRequest: key, range_end, limit, revision. Linearizable, in the order of the keys."""
    return _fields((b"\x0a", key), (b"\x12", end), (b"\x18", limit), (b"\x20", revision))


def lease_grant(lease: int, ttl: int) -> bytes:
    """LeaseGrantRequest: TTL (seconds), ID."""
    return _fields((b"\x08", ttl), (b"\x10", lease))


def lease_named(lease: int) -> bytes:
    """LeaseRevokeRequest and LeaseKeepAliveRequest: ID."""
    return _fields((b"\x08", lease))


def watch(key: bytes, end: bytes, start: int) -> bytes:
    """WatchRequest with a WatchCreateRequest: key, range_end, start_revision, fragment."""
    return _message(b"\x0a", _fields((b"\x0a", key), (b"\x12", end), (b"\x18", start), (b"\x40", 1)))


def _fields(*fields: tuple[bytes, bytes | int]) -> bytes:
    """Those that are not zero."""
    return b"".join(
        _message(tag, value) if isinstance(value, bytes) else tag + varint(value) for tag, value in fields if value
    )


def _message(tag: bytes, data: bytes) -> bytes:
    return tag + varint(len(data)) + data
