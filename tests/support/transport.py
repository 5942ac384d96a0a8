"""Byte transports in memory, for tests of what goes on above them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import trio

from api.rpc.codec import Buffer


class MemoryTransport:
    """One end of a pair (:meth:`pair`), as :class:`api.rpc.stream.ByteTransport`.

    Attributes:
        flowing: while False, nothing that is written reaches the other end: it is ``pending``, as with a socket
            whose peer does not read.
    """

    peer = "memory"
    peer_certificate: bytes | None = None

    def __init__(self) -> None:
        self._received = bytearray()
        self._arrived = trio.Event()
        self._ended = False
        self._pending = bytearray()
        self._changed = trio.Event()
        self._other: MemoryTransport = self
        self.flowing = True
        self.closed = False

    @classmethod
    def pair(cls) -> tuple[Self, Self]:
        one, two = cls(), cls()
        one._other, two._other = two, one
        return one, two

    @property
    def pending(self) -> int:
        return len(self._pending)

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._received and not self._ended:
            self._arrived = trio.Event()
            await self._arrived.wait()
        data, self._received = bytes(self._received), bytearray()
        return data

    def write(self, parts: Iterable[Buffer]) -> None:
        if self.closed or self._other.closed:
            raise trio.BrokenResourceError
        self._pending += b"".join(parts)
        self._move()

    def flow(self, *, flowing: bool) -> None:
        """Let bytes through, or hold them up."""
        self.flowing = flowing
        self._move()

    def _move(self) -> None:
        if self.flowing and self._pending:
            self._other._received += self._pending
            self._pending.clear()
            self._other._arrived.set()
            self._changed.set()
            self._changed = trio.Event()

    async def drain(self) -> None:
        await trio.lowlevel.checkpoint()
        while self._pending:
            await self._changed.wait()

    async def aclose(self) -> None:
        self.closed = True
        self._other._ended = True
        self._other._arrived.set()
        await trio.lowlevel.checkpoint()
