"""Cutting a connection's bytes into frames (RFC 9113, 4.1), without I/O and with few copies.

A frame that is too long is refused when its nine-byte header is there (RFC 9113, 4.2), so what is held of a frame
that is not whole is bounded by the size that was announced. h2's own buffer waits for the whole of it, whatever it
says, and copies what is left behind each frame.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from h2.exceptions import FrameTooLargeError, ProtocolError

HEADER: Final = struct.Struct(">HBBBI")
"""Length (24 bits, here as 16 and 8), type, flags, stream."""
HEADER_SIZE: Final = HEADER.size

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
MAX_STREAM_ID: Final = 0x7FFFFFFF

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def header(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """The nine bytes in front of a frame's payload."""
    return HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream_id)


@dataclass(slots=True)
class RawFrame:
    """A whole frame."""

    kind: int
    flags: int
    stream_id: int
    payload: memoryview


@dataclass(slots=True)
class Piece:
    """A part of the payload of a DATA frame, in the order of arrival.

    Attributes:
        first: the length of the frame's payload, in its first piece, which may be empty; else -1.
        last: nothing of the frame comes after this.
        ends: the frame has END_STREAM.
    """

    stream_id: int
    data: memoryview
    first: int
    last: bool
    ends: bool


class FrameCutter:
    """Takes bytes as they come, gives frames.

    Views that are given are good until the iterator is asked for the next frame.
    """

    def __init__(self, *, expects_preface: bool, max_size: int, in_pieces: Callable[[int, int], bool]) -> None:
        """
        Args:
            max_size: bytes of the longest payload; the size that was announced.
            in_pieces: says, for a DATA frame on a stream with this length of payload, that it may be given in pieces.
        """
        self._preface = PREFACE if expects_preface else b""
        self._max_size = max_size
        self._in_pieces = in_pieces
        self._kept = bytearray()  # of a header, or of a payload, that is not whole
        self._frame: tuple[int, int, int, int] | None = None  # the header of the frame at hand
        self._left = -1  # bytes of the DATA frame that is given in pieces
        self._fresh = False  # no piece of it was given yet

    @property
    def left(self) -> int:
        """Bytes that are still to come of a DATA frame that is given in pieces."""
        return max(self._left, 0)

    @property
    def missing(self) -> int:
        """Bytes that are still to come of the preface, of the header or of the frame at hand; 0 between two frames."""
        if self._preface:
            return len(self._preface)
        if self._frame is None:
            return HEADER_SIZE - len(self._kept) if self._kept else 0
        return self._left if self._left >= 0 else self._frame[0] - len(self._kept)

    @property
    def held(self) -> int:
        """Bytes that wait for the rest of their frame."""
        return len(self._kept)

    def feed(self, data: bytes | memoryview) -> Iterator[RawFrame | Piece]:
        """Take bytes, give each frame that is whole now.

        Raises:
            FrameTooLargeError: a frame is longer than announced.
            ProtocolError: a client's connection does not begin as HTTP/2 does.
        """
        view = memoryview(data)
        at = self._after_preface(view)
        while True:
            if self._frame is None:
                at = self._begin(view, at)
                if self._frame is None:
                    return
            length, kind, flags, stream_id = self._frame
            if self._left >= 0:
                size = min(self._left, len(view) - at)
                if not size and not self._fresh:
                    return
                first = length if self._fresh else -1
                self._fresh = False
                self._left -= size
                last = not self._left
                if last:
                    self._frame, self._left = None, -1
                yield Piece(stream_id, view[at : at + size], first, last, bool(flags & END_STREAM))
                at += size
                continue
            payload, at = self._whole(view, at, length)
            if payload is None:
                return
            self._frame = None
            yield RawFrame(kind, flags, stream_id, payload)

    def _after_preface(self, view: memoryview) -> int:
        size = min(len(self._preface), len(view))
        if view[:size] != self._preface[:size]:
            raise ProtocolError("Invalid HTTP/2 preamble.")
        self._preface = self._preface[size:]
        return size

    def _begin(self, view: memoryview, at: int) -> int:
        """Read the header of the next frame, if all of it is there."""
        if self._kept or len(view) - at < HEADER_SIZE:
            size = HEADER_SIZE - len(self._kept)
            self._kept += view[at : at + size]
            at = min(at + size, len(view))
            if len(self._kept) < HEADER_SIZE:
                return at
            high, low, kind, flags, stream_id = HEADER.unpack(self._kept)
            self._kept = bytearray()
        else:
            high, low, kind, flags, stream_id = HEADER.unpack_from(view, at)
            at += HEADER_SIZE
        length = high << 8 | low
        if length > self._max_size:
            raise FrameTooLargeError(f"Received overlong frame: length {length}, max {self._max_size}")
        stream_id &= 0x7FFFFFFF
        self._frame = length, kind, flags, stream_id
        if kind == DATA and not flags & PADDED and self._in_pieces(stream_id, length):
            self._left, self._fresh = length, True
        return at

    def _whole(self, view: memoryview, at: int, length: int) -> tuple[memoryview | None, int]:
        """The payload of the frame at hand, if all of it is there, and the place after it."""
        if not self._kept and len(view) - at >= length:
            return view[at : at + length], at + length
        size = length - len(self._kept)
        self._kept += view[at : at + size]
        at = min(at + size, len(view))
        if len(self._kept) < length:
            return None, at
        payload, self._kept = memoryview(self._kept), bytearray()
        return payload, at
