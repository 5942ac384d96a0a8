"""What ends the connection that it is sent on."""

from __future__ import annotations

import struct
from typing import Final

from api.rpc import frames
from api.rpc.connection import MAX_CONCURRENT_STREAMS, MAX_FRAME_OF_CLIENT
from tests.hostile.attack import QUERY, Attack, Run
from tests.hostile.peer import RawPeer, with_header
from tests.support.floods import FLOODS, Flood

MANY: Final = 20_000
"""Rounds of a flood; a server that has had enough of it says so earlier."""
BATCH: Final = 50


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
    """One more than may be open; or what a call is answered, if not so many are taken in a second."""
    ids = [peer.next_id() for _ in range(MAX_CONCURRENT_STREAMS + 1)]
    peer.send(b"".join(peer.raw.headers(stream_id) for stream_id in ids))
    peer.settle()
    return next((said for said in map(peer.answered, ids) if said != "open"), "open")


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
    Attack("more streams than may be open", many_streams, *BROKEN, {"RESOURCE_EXHAUSTED": ""}),
    Attack("HPACK bomb", hpack_bomb, *SENT_AWAY),
    Attack("CONTINUATION flood", sending(frame(1, 0, 1, b"\x83"), frame(9, 0, 1, b"\x83") * 100), *SENT_AWAY),
)
# A connection that is closed under a flood can take the GOAWAY with it, as TCP has it (RFC 9293, 3.10.7.1).
WORN: Final = {"closed": "sent_away"}
# This one is a violation as well, when the stream that it is about has been forgotten meanwhile.
VIOLATIONS: Final = {"resets that it makes us send: HEADERS behind the end": {"GOAWAY STREAM_CLOSED": "broke_protocol"}}
FLOODING: Final = tuple(
    Attack(name, flooding(flood), *SENT_AWAY, {**WORN, **VIOLATIONS.get(name, {})}) for name, flood in FLOODS.items()
)
