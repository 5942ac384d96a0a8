"""What ends the stream that it is sent on, or not even that."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Final

from api import methods
from api.messages import QueryRequest
from api.protobuf import encode
from tests.hostile.attack import QUERY, WATCH, Attack, Run, message
from tests.hostile.peer import RawPeer, with_header
from tests.support.wire import CALL

FORBIDDEN: Final = {"CR": "\r", "LF": "\n", "NUL": "\0", "CR and LF": "\r\n"}
BOMB: Final = gzip.compress(bytes(10_000_000))


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
    *(
        Attack(f"{what} in a header's {where}", asking(message(QUERY), header), *MALFORMED)
        for what, text in FORBIDDEN.items()
        for where, header in (("name", (f"x{text}y", "1")), ("value", ("x", f"a{text}b")))
    ),
    Attack("capitals in a header's name", asking(message(QUERY), ("X-Evil", "1")), *MALFORMED),
    Attack("a capital in a pseudo-header's name", asking(message(QUERY), (":Path", "/x/y")), *MALFORMED),
    Attack("LF in the path", asking(message(QUERY), path="/x/y\nz"), *MALFORMED),
    Attack("CR in the content type", asking(message(QUERY), content_type="application/grpc\r"), *MALFORMED),
    Attack("NUL in binary metadata", asking(message(QUERY), ("x-bin", "AA\0==")), *MALFORMED),
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
    Attack(
        "a job whose name is 10 kB", asking(message(encode(QueryRequest("a" * 10_000)))), "INVALID_ARGUMENT", "nothing"
    ),
    Attack("a method whose name is for the terminal", asking(message(QUERY), path="/x/\x1b[2J"), *MALFORMED),
    Attack("the same in eight bits", asking(message(QUERY), path="/x/\x9b2J"), "UNIMPLEMENTED", "nothing"),
    Attack(
        "a method whose name is 10 kB", asking(message(QUERY), path="/x/" + "y" * 10_000), "UNIMPLEMENTED", "nothing"
    ),
)
