"""etcd's messages as betterproto's classes, against which ours by hand are tested and measured.

Fields and numbers are those of etcdserverpb/rpc.proto and mvccpb/kv.proto, as far as they are used.
"""

# ruff: noqa: RUF009 # the defaults are how betterproto describes fields
from __future__ import annotations

from dataclasses import dataclass

import betterproto as b


@dataclass(eq=False, repr=False)
class ResponseHeader(b.Message):
    cluster_id: int = b.uint64_field(1)
    member_id: int = b.uint64_field(2)
    revision: int = b.int64_field(3)
    raft_term: int = b.uint64_field(4)


@dataclass(eq=False, repr=False)
class KeyValue(b.Message):
    key: bytes = b.bytes_field(1)
    create_revision: int = b.int64_field(2)
    mod_revision: int = b.int64_field(3)
    version: int = b.int64_field(4)
    value: bytes = b.bytes_field(5)
    lease: int = b.int64_field(6)


@dataclass(eq=False, repr=False)
class Event(b.Message):
    type: int = b.int32_field(1)
    kv: KeyValue = b.message_field(2)


@dataclass(eq=False, repr=False)
class RangeRequest(b.Message):
    key: bytes = b.bytes_field(1)
    range_end: bytes = b.bytes_field(2)
    limit: int = b.int64_field(3)
    revision: int = b.int64_field(4)


@dataclass(eq=False, repr=False)
class RangeResponse(b.Message):
    header: ResponseHeader = b.message_field(1)
    kvs: list[KeyValue] = b.message_field(2)
    more: bool = b.bool_field(3)
    count: int = b.int64_field(4)


@dataclass(eq=False, repr=False)
class PutRequest(b.Message):
    key: bytes = b.bytes_field(1)
    value: bytes = b.bytes_field(2)
    lease: int = b.int64_field(3)


@dataclass(eq=False, repr=False)
class PutResponse(b.Message):
    header: ResponseHeader = b.message_field(1)


@dataclass(eq=False, repr=False)
class DeleteRangeRequest(b.Message):
    key: bytes = b.bytes_field(1)
    range_end: bytes = b.bytes_field(2)


@dataclass(eq=False, repr=False)
class RequestOp(b.Message):
    request_range: RangeRequest = b.message_field(1, group="request")
    request_put: PutRequest = b.message_field(2, group="request")
    request_delete_range: DeleteRangeRequest = b.message_field(3, group="request")


@dataclass(eq=False, repr=False)
class ResponseOp(b.Message):
    response_range: RangeResponse = b.message_field(1, group="response")
    response_put: PutResponse = b.message_field(2, group="response")
    response_delete_range: PutResponse = b.message_field(3, group="response")


@dataclass(eq=False, repr=False)
class Compare(b.Message):
    result: int = b.int32_field(1)
    target: int = b.int32_field(2)
    key: bytes = b.bytes_field(3)
    create_revision: int = b.int64_field(5, group="target_union")
    mod_revision: int = b.int64_field(6, group="target_union")


@dataclass(eq=False, repr=False)
class TxnRequest(b.Message):
    compare: list[Compare] = b.message_field(1)
    success: list[RequestOp] = b.message_field(2)
    failure: list[RequestOp] = b.message_field(3)


@dataclass(eq=False, repr=False)
class TxnResponse(b.Message):
    header: ResponseHeader = b.message_field(1)
    succeeded: bool = b.bool_field(2)
    responses: list[ResponseOp] = b.message_field(3)


@dataclass(eq=False, repr=False)
class WatchResponse(b.Message):
    header: ResponseHeader = b.message_field(1)
    watch_id: int = b.int64_field(2)
    created: bool = b.bool_field(3)
    canceled: bool = b.bool_field(4)
    compact_revision: int = b.int64_field(5)
    cancel_reason: str = b.string_field(6)
    fragment: bool = b.bool_field(7)
    events: list[Event] = b.message_field(11)
