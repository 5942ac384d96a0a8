"""What a peer may put on the wire, frame by frame, well-meant or not."""

from __future__ import annotations

from typing import Final

from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from api.rpc.codec import PREFIX
from api.rpc.frames import PREFACE, header

CALL: Final = (
    (":method", "POST"),
    (":scheme", "https"),
    (":path", "/jobworker.v1.JobWorkerService/Query"),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)


ANSWER: Final = ((":status", "200"), ("content-type", "application/grpc+proto"))


class RawPeer:
    """Makes the frames of one side. Keeps its header table, and no rule."""

    def __init__(self) -> None:
        self.encoder = Encoder()

    def block(
        self,
        stream_id: int,
        headers: tuple[tuple[str, str], ...],
        *,
        end: bool = False,
        pieces: int = 1,
        priority: bool = False,
    ) -> bytes:
        """A header block, in so many frames."""
        block = self.encoder.encode(headers)
        size = max(-(-len(block) // pieces), 1)
        parts = [block[start : start + size] for start in range(0, len(block), size)]
        first = HeadersFrame(stream_id, parts[0], flags=["END_STREAM"] if end else [])
        if priority:
            first.flags.add("PRIORITY")
        made: list[Frame] = [first, *(ContinuationFrame(stream_id, part) for part in parts[1:])]
        made[-1].flags.add("END_HEADERS")
        return b"".join(frame.serialize() for frame in made)

    def data(self, stream_id: int, data: bytes, *, end: bool = False, padding: int | None = None) -> bytes:
        frame = DataFrame(stream_id, data, flags=["END_STREAM"] if end else [])
        if padding is not None:
            frame.flags.add("PADDED")
            frame.pad_length = padding
        return bytes(frame.serialize())

    def reset(self, stream_id: int, code: int = 8) -> bytes:
        return bytes(RstStreamFrame(stream_id, code).serialize())

    def window(self, stream_id: int, increment: int) -> bytes:
        return bytes(WindowUpdateFrame(stream_id, increment).serialize())

    def ping(self, *, ack: bool = False) -> bytes:
        return bytes(PingFrame(0, b"12345678", flags=["ACK"] if ack else []).serialize())

    def priority(self, stream_id: int, depends_on: int = 0) -> bytes:
        return bytes(PriorityFrame(stream_id, depends_on=depends_on).serialize())

    def settings(self, settings: dict[int, int], *, ack: bool = False) -> bytes:
        return bytes(SettingsFrame(0, settings, flags=["ACK"] if ack else []).serialize())

    def any_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
        return header(len(payload), kind, flags, stream_id) + payload


class RawClient(RawPeer):
    """Makes the frames of a client."""

    def begin(self, settings: dict[int, int] | None = None) -> bytes:
        """The preface and the first SETTINGS."""
        return PREFACE + self.settings(settings or {})

    def headers(
        self,
        stream_id: int,
        headers: tuple[tuple[str, str], ...] = CALL,
        *,
        end: bool = False,
        pieces: int = 1,
        priority: bool = False,
    ) -> bytes:
        """A header block, in so many frames."""
        return self.block(stream_id, headers, end=end, pieces=pieces, priority=priority)

    def message(self, stream_id: int, data: bytes = b"", *, end: bool = True) -> bytes:
        """A gRPC message in a DATA frame of its own."""
        return self.data(stream_id, PREFIX.pack(False, len(data)) + data, end=end)

    def call(self, stream_id: int) -> bytes:
        """A whole unary call with an empty request."""
        return self.headers(stream_id) + self.message(stream_id)


class RawServer(RawPeer):
    """Makes the frames of a server."""

    def headers(self, stream_id: int, *, end: bool = False) -> bytes:
        """Of an answer."""
        return self.block(stream_id, ANSWER, end=end)

    def trailers(self, stream_id: int, code: int = 0) -> bytes:
        return self.block(stream_id, (("grpc-status", str(code)),), end=True)

    def answer(self, stream_id: int, data: bytes) -> bytes:
        """A whole one, with one message."""
        message = self.data(stream_id, PREFIX.pack(False, len(data)) + data)
        return self.headers(stream_id) + message + self.trailers(stream_id)
