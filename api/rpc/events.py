"""What a connection tells its session, beside purerpc's own events."""

from __future__ import annotations

from dataclasses import dataclass

from purerpc.grpclib.events import (
    MessageReceived,
    RequestEnded,
    RequestReceived,
    ResponseEnded,
    ResponseReceived,
    WindowUpdated,
)

from api.errors import RpcError

__all__ = [
    "GoAway",
    "MessageReceived",
    "Pong",
    "RequestEnded",
    "RequestReceived",
    "ResponseEnded",
    "ResponseReceived",
    "StreamFailed",
    "StreamReset",
    "WindowUpdated",
]


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The peer gave up a stream (RST_STREAM)."""

    stream_id: int
    error_code: int


@dataclass(frozen=True, slots=True)
class StreamFailed:
    """The peer sent something on a stream that cannot be accepted; the rest of the connection goes on."""

    stream_id: int
    error: RpcError


@dataclass(frozen=True, slots=True)
class GoAway:
    """The peer opens or accepts no further streams (RFC 9113, 6.8)."""

    last_stream_id: int
    error_code: int


@dataclass(frozen=True, slots=True)
class Pong:
    """The peer answered a PING."""
