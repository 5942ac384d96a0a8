"""What a client that means harm sends over a connection of its own, and what it has to be answered.

Each attack is a function of a connected peer, and says what it was answered. Those on one stream must leave the
connection as it was; the others may end it, and nothing else.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from api import methods
from api.messages import QueryRequest
from api.protobuf import encode
from api.rpc import frames
from api.rpc.connection import MAX_CONCURRENT_STREAMS, MAX_FRAME_OF_CLIENT
from tests.hostile.peer import RawPeer, with_header
from tests.support.floods import FLOODS, Flood
from tests.support.wire import CALL

Run = Callable[[RawPeer], str]

QUERY: Final = encode(QueryRequest("0000"))
WATCH: Final = with_header(path=methods.WATCH.path)
BOMB: Final = gzip.compress(bytes(10_000_000))
MANY: Final = 20_000
"""Rounds of a flood; a server that has had enough of it says so earlier."""
BATCH: Final = 50


@dataclass(frozen=True)
class Attack:
    """One of them.

    Attributes:
        name: for people.
        run: does it, once.
        answer: what it has to say.
        costs: "nothing", "stream" or "connection": what is gone then, at the most.
        counted: the field of ``Statistics`` that grows, if it is no call as any other.
    """

    name: str
    run: Run
    answer: str
    costs: str
    counted: str = ""


# ---- on a stream


def message(data: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """A gRPC message whose prefix may lie."""
    return struct.pack(">BI", flag, len(data) if length is None else length) + data


def asking(body: bytes, *headers: tuple[str, str], **pseudo: str) -> Run:
    """A request with this body."""
    return lambda peer: peer.request(with_header(*headers, **pseudo), body)


def on_a_stream(*parts: Callable[[RawPeer, int], bytes], headers: tuple[tuple[str, str], ...] = CALL) -> Run:
    """A request's headers, and then these."""

    def run(peer: RawPeer) -> str:
        stream_id = peer.next_id()
        peer.send(peer.raw.headers(stream_id, headers) + b"".join(part(peer, stream_id) for part in parts))
        return peer.outcome(stream_id)

    return run


def whole(peer: RawPeer, stream_id: int) -> bytes:
    return peer.raw.data(stream_id, message(QUERY), end=True)


def begun(peer: RawPeer, stream_id: int) -> bytes:
    return peer.raw.data(stream_id, message(QUERY))


def more_data(peer: RawPeer, stream_id: int) -> bytes:
    return peer.raw.data(stream_id, b"x")


def more_headers(peer: RawPeer, stream_id: int) -> bytes:
    return peer.raw.headers(stream_id)


def trailers(name: str, value: str) -> Callable[[RawPeer, int], bytes]:
    return lambda peer, stream_id: peer.raw.headers(stream_id, ((name, value),), end=True)


def overflow(peer: RawPeer, stream_id: int) -> bytes:
    return peer.raw.window(stream_id, 2**31 - 1)


MALFORMED: Final = ("RST_STREAM PROTOCOL_ERROR", "stream", "offences")
NO_CALL: Final = ("INTERNAL", "stream", "offences")
ON_A_STREAM: Final = (
    Attack("CR and LF in a header's value", asking(message(QUERY), ("x", "a\r\nb")), *MALFORMED),
    Attack("NUL in a header's value", asking(message(QUERY), ("x", "a\0b")), *MALFORMED),
    Attack("capitals in a header's name", asking(message(QUERY), ("X-Evil", "1")), *MALFORMED),
    Attack("LF in a header's name", asking(message(QUERY), ("x\ny", "1")), *MALFORMED),
    Attack("a pseudo-header behind the others", asking(message(QUERY), (":path", "/x/y")), *MALFORMED),
    Attack("a header of HTTP/1", asking(message(QUERY), ("transfer-encoding", "chunked")), *MALFORMED),
    Attack(
        "two lengths of the content",
        asking(message(QUERY), *[("content-length", str(n)) for n in (len(QUERY) + 5, 9)]),
        *MALFORMED,
    ),
    Attack("malformed trailers", on_a_stream(begun, trailers("x", "a\r\nb")), *MALFORMED),
    Attack("a pseudo-header in the trailers", on_a_stream(begun, trailers(":path", "/x/y")), *MALFORMED),
    Attack("trailers", on_a_stream(begun, trailers("x", "y")), "NOT_FOUND", "nothing"),
    Attack(
        "DATA behind the end", on_a_stream(whole, more_data, headers=WATCH), "RST_STREAM STREAM_CLOSED", *MALFORMED[1:]
    ),
    Attack(
        "HEADERS behind the end",
        on_a_stream(whole, more_headers, headers=WATCH),
        "RST_STREAM STREAM_CLOSED",
        *MALFORMED[1:],
    ),
    Attack("a stream's window overflows", on_a_stream(overflow), "RST_STREAM FLOW_CONTROL_ERROR", *MALFORMED[1:]),
    Attack("GET", asking(b"", method="GET"), "HTTP 405", *NO_CALL[1:]),
    Attack("another content type", asking(message(QUERY), content_type="application/json"), "HTTP 415", *NO_CALL[1:]),
    Attack("no te: trailers", asking(message(QUERY), te="gzip"), *NO_CALL),
    Attack("a path without a slash", asking(message(QUERY), path="Query"), *NO_CALL),
    Attack("metadata that is not base64", asking(message(QUERY), ("x-bin", "\\")), *NO_CALL),
    Attack("a deadline of -1 s", asking(message(QUERY), ("grpc-timeout", "-1S")), *NO_CALL),
    Attack("a deadline of 10^9 hours", asking(message(QUERY), ("grpc-timeout", "999999999H")), *NO_CALL),
    Attack("a deadline of 0", asking(message(QUERY), ("grpc-timeout", "0n")), "DEADLINE_EXCEEDED", "nothing"),
    Attack("a deadline of 10^8 hours", asking(message(QUERY), ("grpc-timeout", "99999999H")), "NOT_FOUND", "nothing"),
    Attack(
        "a compressed message that explodes",
        asking(message(BOMB, flag=1), ("grpc-encoding", "gzip")),
        "UNIMPLEMENTED",
        *NO_CALL[1:],
    ),
    Attack("an unknown encoding", asking(message(b"x", flag=1), ("grpc-encoding", "x")), "UNIMPLEMENTED", *NO_CALL[1:]),
    Attack("a flag that there is not", asking(message(QUERY, flag=7)), "UNIMPLEMENTED", *NO_CALL[1:]),
    Attack(
        "a message of 4 GiB, as it says", asking(message(b"x", length=2**32 - 1)), "RESOURCE_EXHAUSTED", *NO_CALL[1:]
    ),
    Attack("a prefix that says too much", asking(message(QUERY, length=100)), "UNKNOWN", *NO_CALL[1:]),
    Attack("a prefix that says too little", asking(message(QUERY, length=2)), "UNKNOWN", *NO_CALL[1:]),
    Attack("two messages for one", asking(message(QUERY) * 2), "UNIMPLEMENTED", "nothing"),
    Attack("no message", asking(b""), "UNIMPLEMENTED", "nothing"),
    Attack("a message that is none", asking(message(b"\xff" * 20)), "INTERNAL", "nothing"),
    Attack("a method in capitals", asking(message(QUERY), path=methods.QUERY.path.upper()), "UNIMPLEMENTED", "nothing"),
    Attack(
        "a method that it may not call", asking(message(b""), path=methods.START.path), "PERMISSION_DENIED", "nothing"
    ),
    Attack(
        "a job whose name is for the terminal",
        asking(message(encode(QueryRequest("\x1b[2J")))),
        "INVALID_ARGUMENT",
        "nothing",
    ),
)

# ---- on the connection


def sending(*parts: bytes) -> Run:
    """These bytes, at once: with a pause, what comes later could find a stream that has been answered."""

    def run(peer: RawPeer) -> str:
        peer.send(b"".join(parts))
        return peer.outcome()

    return run


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return frames.header(len(payload), kind, flags, stream_id) + payload


def hpack_bomb(peer: RawPeer) -> str:
    """A header of 4,000 bytes that is put into the table, and then a block of nothing but references to it."""
    peer.request(with_header(("x", "y" * 4000)))
    peer.send(frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, peer.next_id(), b"\xbe" * 5000))
    return peer.outcome()


def many_streams(peer: RawPeer) -> str:
    """One more than may be open."""
    ids = [peer.next_id() for _ in range(MAX_CONCURRENT_STREAMS + 1)]
    peer.send(b"".join(peer.raw.headers(stream_id) for stream_id in ids))
    return peer.outcome()


def flooding(flood: Flood) -> Run:
    """The flood of the unit tests, until it is answered; streams 1 and 3 as there: one is open, one has ended."""

    def run(peer: RawPeer) -> str:
        peer.send(peer.raw.headers(1) + peer.raw.headers(3) + peer.raw.message(3, QUERY))
        peer.outcome(3)
        for start in range(0, MANY, BATCH):
            if not peer.send(b"".join(flood(peer.raw, number) for number in range(start, start + BATCH))):
                break
            if peer.listen():
                break
        return peer.outcome()

    return run


BROKEN: Final = ("GOAWAY PROTOCOL_ERROR", "connection", "broke_protocol")
TOO_LONG: Final = ("GOAWAY FRAME_SIZE_ERROR", "connection", "broke_protocol")
SENT_AWAY: Final = ("GOAWAY ENHANCE_YOUR_CALM", "connection", "sent_away")
ON_THE_CONNECTION: Final = (
    Attack("a frame of 16 MiB", sending(b"\xff\xff\xff\0\0\0\0\0\1"), *TOO_LONG),
    Attack("a frame that is a byte too long", sending(frames.header(MAX_FRAME_OF_CLIENT + 1, 1, 4, 1)), *TOO_LONG),
    Attack(
        "a block that cannot be decoded", sending(frame(1, 5, 1, b"\xff" * 6)), "GOAWAY COMPRESSION_ERROR", *BROKEN[1:]
    ),
    Attack(
        "the connection's window overflows",
        sending(frame(8, 0, 0, b"\x7f\xff\xff\xff")),
        "GOAWAY FLOW_CONTROL_ERROR",
        *BROKEN[1:],
    ),
    Attack("a window update of nothing", sending(frame(8, 0, 0, bytes(4))), *BROKEN),
    Attack(
        "a first window of 2 GiB",
        sending(frame(4, 0, 0, struct.pack(">HI", 4, 2**31))),
        "GOAWAY FLOW_CONTROL_ERROR",
        *BROKEN[1:],
    ),
    Attack("frames of a byte, please", sending(frame(4, 0, 0, struct.pack(">HI", 5, 1))), *BROKEN),
    Attack("a PUSH_PROMISE", sending(frame(1, 4, 1, b"\x83"), frame(5, 4, 1, b"\0\0\0\2")), *BROKEN),
    Attack("a stream of the server's", sending(frame(1, 5, 2, b"\x83")), *BROKEN),
    Attack("a CONTINUATION of nothing", sending(frame(9, 4, 1, b"x")), *BROKEN),
    Attack("a PING in a header block", sending(frame(1, 0, 1, b""), frame(6, 0, 0, bytes(8))), *BROKEN),
    Attack("more padding than frame", sending(frame(1, 4, 1, b"\x83"), frame(0, 8, 1, b"\xffx")), *BROKEN),
    Attack("DATA of no stream", sending(frame(0, 0, 0, b"x")), *BROKEN),
    Attack("DATA of a stream to come", sending(frame(0, 0, 99, b"x")), *BROKEN),
    Attack("more streams than may be open", many_streams, *BROKEN),
    Attack("HPACK bomb", hpack_bomb, *SENT_AWAY),
    Attack("CONTINUATION flood", sending(frame(1, 0, 1, b"\x83"), frame(9, 0, 1, b"\x83") * 100), *SENT_AWAY),
)
# Some are a violation as well, when the stream that they are about has been answered meanwhile.
FLOODING: Final = tuple(Attack(name, flooding(flood), "GOAWAY", *SENT_AWAY[1:]) for name, flood in FLOODS.items())
ATTACKS: Final = (*ON_A_STREAM, *ON_THE_CONNECTION, *FLOODING)
