"""The bytes under HTTP/2 without TLS, for an etcd on loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Final

import trio

from api.rpc.codec import Buffer

RECEIVE: Final = 64 * 1024


class PlainStream:
    """A TCP connection as an :class:`api.rpc.stream.ByteTransport`."""

    peer_certificate: Final = None

    def __init__(self, sock: socket.socket, peer: str) -> None:
        sock.setblocking(False)
        self.peer = peer
        self._sock = sock
        self._unsent = bytearray()
        self._drain_lock = trio.Lock()  # one task at a time may wait until the socket is writable
        self._closed = False

    @property
    def pending(self) -> int:
        return len(self._unsent)

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self._sock.recv(RECEIVE)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._sock)
            except OSError as exc:
                raise self._error() from exc

    def write(self, parts: Iterable[Buffer]) -> None:
        for part in parts:
            self._unsent += part
        self._offer()

    def _offer(self) -> bool:
        """Give the socket what it takes now. True: nothing is left."""
        try:
            while self._unsent:
                del self._unsent[: self._sock.send(self._unsent)]
        except BlockingIOError:
            return False
        except OSError as exc:
            raise self._error() from exc
        return True

    async def drain(self) -> None:
        async with self._drain_lock:
            while not self._offer():
                await trio.lowlevel.wait_writable(self._sock)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
        await trio.lowlevel.checkpoint()

    def _error(self) -> Exception:
        if self._closed:
            return trio.ClosedResourceError("this connection was closed here")
        return trio.BrokenResourceError("the connection broke")
