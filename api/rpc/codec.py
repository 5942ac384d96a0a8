"""Messages to bytes and back, and the cutting of DATA into messages (gRPC's length-prefixed messages).

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from typing import Final, TypeVar

import betterproto

from api import protobuf
from api.errors import (
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    RpcError,
    UnimplementedError,
)

M = TypeVar("M", bound=betterproto.Message)

Buffer = bytes | bytearray | memoryview

WireMessage = bytes | tuple[Buffer, ...]
"""A message as it goes on the wire: in one piece, or in several."""

Parts = tuple[Buffer, ...]
"""A message as it came: the pieces of it, one after another."""

LARGE: Final = 16 * 1024
"""Bytes of a piece from which on it is kept by itself, and not joined with those beside it."""

MAX_MESSAGE: Final = 4 * 1024 * 1024
"""The largest message that either side of this project accepts, in bytes: gRPC's usual limit."""

PREFIX: Final = struct.Struct(">?I")
"""Compressed flag and length, in front of every message."""


def encode(message: betterproto.Message | bytes) -> bytes:
    """The wire form of a message. Bytes are taken to be that already."""
    return message if isinstance(message, bytes) else protobuf.encode(message)


def encode_request(message: betterproto.Message) -> bytes:
    """The wire form of a request.

    Raises:
        InvalidArgumentError: a number is beyond what its field holds. As a server says it of one that came.
    """
    try:
        return protobuf.encode(message)
    except protobuf.UnfitValueError as exc:
        raise InvalidArgumentError(
            f"{exc.field} {exc}", reason="INVALID_REQUEST", violations=(FieldViolation(exc.field, str(exc)),)
        ) from exc


def decode(cls: type[M], data: Buffer) -> M:
    """The message that ``data`` is the wire form of.

    Raises:
        InternalError: it is not (the code that gRPC's statuscodes.md gives for a failed parse).
    """
    try:
        return protobuf.decode(cls, data)
    except protobuf.MalformedMessageError as exc:
        raise InternalError(f"the bytes received are not a {cls.__name__}", reason="MALFORMED_MESSAGE") from exc


def whole(parts: Parts) -> Buffer:
    """The message that has these parts."""
    return parts[0] if len(parts) == 1 else b"".join(parts)


class Outgoing:
    """What a stream has to send: messages behind their prefixes, taken from the front without being copied.

    Attributes:
        size: bytes that were not taken yet.
    """

    def __init__(self, messages: Sequence[WireMessage]) -> None:
        self._parts: deque[Buffer] = deque()
        for message in messages:
            parts = message if isinstance(message, tuple) else (message,)
            self._parts.append(PREFIX.pack(False, sum(map(len, parts))))
            self._parts += parts
        self.size = sum(map(len, self._parts))

    def take(self, size: int) -> list[Buffer]:
        """The next ``size`` bytes, which are there."""
        self.size -= size
        if not self.size:
            rest, self._parts = list(self._parts), deque()
            return rest
        taken: list[Buffer] = []
        while size:
            part = self._parts.popleft()
            if len(part) > size:
                view = memoryview(part)
                part = view[:size]
                self._parts.appendleft(view[size:])
            taken.append(part)
            size -= len(part)
        return taken


class MessageReader:
    """Cuts one stream's DATA into messages. No I/O; holds at most one incomplete message.

    A message longer than ``limit`` is refused when its prefix arrives, before any of it is kept.
    """

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        self._prefix = b""  # the first bytes of a prefix that is not whole
        self._length = -1  # of the message at hand, once that is known
        self._message: list[bytes | bytearray] = []  # what there is of it
        self._here = 0  # bytes of that
        self.uncredited = 0  # flow-controlled bytes that no message has accounted for yet

    @property
    def incomplete(self) -> bool:
        """Part of a message is here, and the rest is not."""
        return bool(self._prefix) or self._length >= 0

    def feed(self, data: Buffer, flow_controlled_length: int) -> list[tuple[Parts, int]]:
        """Take DATA; give each message that is now complete, with the flow-control credit that it returns.

        Raises:
            ResourceExhaustedError: a message is longer than the limit.
            UnimplementedError: a message is compressed; nothing was offered (no grpc-accept-encoding).
        """
        size = len(data) - PREFIX.size
        if not self.uncredited and 0 < size <= self._limit and data[: PREFIX.size] == PREFIX.pack(False, size):
            return [((bytes(data[PREFIX.size :]),), flow_controlled_length)]  # one message and nothing else, as most
        self.uncredited += flow_controlled_length
        view = memoryview(data)
        messages: list[tuple[Parts, int]] = []
        at = 0
        while at < len(view):
            if self._length < 0:
                at = self._take_prefix(view, at)
                if self._length < 0:
                    break
            size = min(self._length - self._here, len(view) - at)
            self._keep(view[at : at + size])
            if self._here < self._length:
                break
            messages.append((tuple(self._message), 0))
            at += size
            self._message, self._here, self._length = [], 0, -1
        if messages:
            # The last message of the batch returns the credit of the whole batch, less what is still held.
            held = len(self._prefix) if self._length < 0 else PREFIX.size + self._here
            messages[-1] = (messages[-1][0], self.uncredited - held)
            self.uncredited = held
        return messages

    def _keep(self, piece: memoryview) -> None:
        """Copy a piece of the message at hand. Small ones are joined, or each byte could come to cost sixty."""
        self._here += len(piece)
        if len(piece) >= LARGE or self._here == self._length == len(piece):
            self._message.append(bytes(piece))
        elif self._message and isinstance(last := self._message[-1], bytearray):
            last += piece
        elif piece:
            self._message.append(bytearray(piece))

    def _take_prefix(self, view: memoryview, at: int) -> int:
        """Read the prefix of the next message, if all of it is there."""
        end = at + PREFIX.size - len(self._prefix)
        self._prefix += view[at:end]
        if len(self._prefix) == PREFIX.size:
            compressed, length = PREFIX.unpack(self._prefix)
            self._prefix = b""
            error = self._refusal(compressed, length)
            if error:
                raise error
            self._length = length
        return end

    def _refusal(self, compressed: bool, length: int) -> RpcError | None:
        if length > self._limit:
            return ResourceExhaustedError(
                f"a message of {length} bytes is over the limit of {self._limit} bytes; send less at a time",
                reason="MESSAGE_TOO_LARGE",
                metadata={"size": str(length), "limit": str(self._limit)},
            )
        if compressed:
            return UnimplementedError(
                "compressed messages are not supported; send them uncompressed", reason="COMPRESSED_MESSAGE"
            )
        return None
