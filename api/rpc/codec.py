"""Messages to bytes and back, and the cutting of DATA into messages (gRPC's length-prefixed messages).

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import struct
from typing import Final, TypeVar

import betterproto

from api import protobuf
from api.errors import InternalError, ResourceExhaustedError, RpcError, UnimplementedError

M = TypeVar("M", bound=betterproto.Message)

MAX_MESSAGE: Final = 4 * 1024 * 1024
"""The largest message that either side of this project accepts, in bytes: gRPC's usual limit."""

PREFIX: Final = struct.Struct(">?I")
"""Compressed flag and length, in front of every message."""


def encode(message: betterproto.Message | bytes) -> bytes:
    """The wire form of a message. Bytes are taken to be that already."""
    return message if isinstance(message, bytes) else protobuf.encode(message)


def decode(cls: type[M], data: bytes) -> M:
    """The message that ``data`` is the wire form of.

    Raises:
        InternalError: it is not (the code that gRPC's statuscodes.md gives for a failed parse).
    """
    try:
        return protobuf.decode(cls, data)
    except protobuf.MalformedMessageError as exc:
        raise InternalError(f"the bytes received are not a {cls.__name__}", reason="MALFORMED_MESSAGE") from exc


class MessageReader:
    """Cuts one stream's DATA into messages. No I/O; holds at most one incomplete message.

    A message longer than ``limit`` is refused when its prefix arrives, before any of it is kept.
    """

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self.uncredited = 0  # flow-controlled bytes that no message has accounted for yet

    @property
    def incomplete(self) -> bool:
        """Part of a message is here, and the rest is not."""
        return bool(self._buffer)

    def feed(self, data: bytes, flow_controlled_length: int) -> list[tuple[bytes, int]]:
        """Take DATA; give each message that is now complete, with the flow-control credit that it returns.

        Raises:
            ResourceExhaustedError: a message is longer than the limit.
            UnimplementedError: a message is compressed; nothing was offered (no grpc-accept-encoding).
        """
        self.uncredited += flow_controlled_length
        buffer = self._buffer
        buffer += data
        messages: list[tuple[bytes, int]] = []
        start = 0
        while len(buffer) - start >= PREFIX.size:
            compressed, length = PREFIX.unpack_from(buffer, start)
            error = self._refusal(compressed, length)
            if error:
                raise error
            end = start + PREFIX.size + length
            if len(buffer) < end:
                break
            messages.append((bytes(memoryview(buffer)[start + PREFIX.size : end]), 0))
            start = end
        if start:
            del buffer[:start]
        if messages:
            # The last message of the batch returns the credit of the whole batch, less what is still held.
            credit = self.uncredited - len(buffer)
            self.uncredited = len(buffer)
            messages[-1] = (messages[-1][0], credit)
        return messages

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
