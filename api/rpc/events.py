"""What a connection tells its session, beside purerpc's own events."""

from __future__ import annotations

from dataclasses import dataclass

from purerpc.grpclib.events import (
    MessageReceived,
    RequestEnded,
    ResponseEnded,
    ResponseReceived,
    WindowUpdated,
)

from api.errors import RpcError
from api.trace import TraceContext

__all__ = [
    "AnswerBegun",
    "AnswerEnded",
    "GoAway",
    "MessageReceived",
    "Pong",
    "Request",
    "RequestEnded",
    "RequestReceived",
    "ResponseEnded",
    "ResponseReceived",
    "StreamFailed",
    "StreamReset",
    "WindowUpdated",
]


@dataclass(frozen=True, slots=True)
class Request:
    """What the headers of a request say. One for all requests that say the same.

    Attributes:
        path: the ``:path`` asked for.
        metadata: what the caller says beside the message; only what a peer may say itself.
        timeout: seconds that the caller gives, if it does.
        trace: the trace that the caller makes the call in, if that was said.
    """

    path: str
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    timeout: float | None = None
    trace: TraceContext | None = None


@dataclass(slots=True)
class RequestReceived:
    """The peer has begun a call."""

    stream_id: int
    request: Request


@dataclass(slots=True)
class AnswerBegun:
    """The headers of an answer have come that are known to be good."""

    stream_id: int


@dataclass(slots=True)
class AnswerEnded:
    """The trailers of an answer have come that are known.

    Attributes:
        known: what they said the first time, on another stream.
    """

    stream_id: int
    known: ResponseEnded


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
