"""The bytes under HTTP/2: one TLS connection over a non-blocking socket.

``ssl.SSLObject`` with two ``MemoryBIO`` instead of trio's ``SSLStream``: a write into memory never blocks, so a
frame that was begun is always finished whatever is cancelled, and large slices move with few copies.
"""

from __future__ import annotations

import contextlib
import mmap
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Final, Protocol, cast

import trio

from api.rpc.codec import Buffer

RECORD: Final = 16 * 1024
"""The most plaintext in a TLS record (RFC 8446, 5.1)."""
RECEIVE: Final = 512 * 1024
"""The most that a connection reads at a time."""
FEW: Final = 4096
"""So few bytes are all that there was."""
WRITE_SLICE: Final = 128 * 1024
"""Plaintext bytes that are encrypted at a time."""


_ENCODING_DER: Final = 2
"""``_ssl.ENCODING_DER``, which is OpenSSL's X509_FILETYPE_ASN1."""


class _Buffers(threading.local):
    """Where bytes come in, for all connections of a thread: what an idle one holds is nothing. What of it is never used
    (a server takes little at a time) is no memory either."""

    def __init__(self) -> None:
        self.cipher = memoryview(mmap.mmap(-1, RECEIVE))
        self.plain = memoryview(mmap.mmap(-1, RECEIVE))
        self.places = [self.plain[start:] for start in range(0, RECEIVE, RECORD)]  # where whole records come to stand


_buffers: Final = _Buffers()


class ByteTransport(Protocol):
    """What a connection needs of the thing that carries its bytes.

    Errors: ``trio.BrokenResourceError`` when the peer or the network failed (the cause is chained),
    ``trio.ClosedResourceError`` after :meth:`aclose`.
    """

    @property
    def peer(self) -> str:
        """The other end, for logs: ``host:port``."""

    @property
    def peer_certificate(self) -> bytes | None:
        """The verified certificate of the other end in DER form, if there is one."""

    @property
    def pending(self) -> int:
        """Bytes that were written and that the kernel has not taken yet."""

    async def receive(self) -> bytes | memoryview:
        """Wait for bytes; none is the end. They are good until the caller's next await."""

    def write(self, parts: Iterable[Buffer]) -> None:
        """Take the bytes, in this order, now. Never waits; what the socket does not take is :attr:`pending`."""

    async def drain(self) -> None:
        """Wait until nothing is pending. May be cancelled: the rest stays pending."""

    async def aclose(self) -> None:
        """Close, with a TLS close-notify when that is possible without waiting."""


class TLSStream:
    """A TLS connection as a :class:`ByteTransport`."""

    def __init__(
        self,
        sock: socket.socket,
        ssl_object: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        receive_size: int,
    ) -> None:
        """Use :meth:`handshake`."""
        self._receive_size = receive_size
        self._sock = sock
        self._ssl = ssl_object
        self._incoming = incoming
        self._outgoing = outgoing
        self._unsent = memoryview(b"")  # ciphertext that left the BIO and that the socket has not taken
        self._drain_lock = trio.Lock()  # one task at a time may wait until the socket is writable
        self._read = cast("Callable[[int, Buffer], int]", ssl_object.read)  # given a buffer, it gives a size
        self._waited = True  # the last call of receive was a checkpoint for as long as it waited
        self._drained = False  # the socket had no more
        self._closed = False
        self._deaf = False  # receiving has failed
        self._broken: BaseException | None = None
        self.peer = _address(sock)

    @classmethod
    async def handshake(
        cls,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        receive_size: int,
    ) -> TLSStream:
        """Shake hands over a connected socket, which is then owned by the stream (and closed on failure).

        Args:
            receive_size: bytes asked of the socket, and given to HTTP/2, at a time (at most RECEIVE): what one
                peer may make this thread work on before the others have their turn.

        Raises:
            ssl.SSLError: the other side, or its certificate, was refused, or it refused ours.
            OSError: the connection broke.
        """
        sock.setblocking(False)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        ssl_object = context.wrap_bio(incoming, outgoing, server_side=server_side, server_hostname=server_hostname)
        self = cls(sock, ssl_object, incoming, outgoing, receive_size)
        try:
            await self._handshake()
        except BaseException:  # refused, broken or cancelled: the socket is ours, and must not stay open
            self._send_alert()
            self._close_socket()
            raise
        return self

    async def _handshake(self) -> None:
        while True:
            try:
                self._ssl.do_handshake()
            except ssl.SSLWantReadError:
                await self._drain()
                if not await self._fill():
                    raise ssl.SSLEOFError("the peer closed the connection during the TLS handshake") from None
            else:
                await self._drain()
                return

    @property
    def peer_certificate(self) -> bytes | None:
        return self._ssl.getpeercert(binary_form=True)

    @property
    def verified_chain(self) -> tuple[bytes, ...]:
        """The other end's certificate and those above it, up to the root that was trusted, in DER form."""
        if sys.version_info >= (3, 13):
            return tuple(self._ssl.get_verified_chain())
        # What 3.13 made public is there before, without a name of its own (bpo-18233).
        chain = self._ssl._sslobj.get_verified_chain() or ()  # type: ignore[attr-defined] # noqa: SLF001 # nothing public has it
        return tuple(certificate.public_bytes(_ENCODING_DER) for certificate in chain)

    @property
    def alpn_protocol(self) -> str | None:
        """The application protocol that both sides chose, if they did (RFC 7301)."""
        return self._ssl.selected_alpn_protocol()

    @property
    def pending(self) -> int:
        return len(self._unsent) + self._outgoing.pending

    async def receive(self) -> memoryview:
        # A write that failed does not make us deaf: the peer's last words (an alert that refuses our certificate) may
        # have come before, and still be in the socket.
        if self._closed or self._deaf:
            self._check_open()
        # What is given back lies in a buffer that all connections of this thread share, so the checkpoint that every
        # call owes (trio's rule) comes before the bytes are there, and not between them and the caller.
        if self._waited:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        self._waited = False
        try:
            while True:
                # OpenSSL holds no more than one record by itself, and the end tells itself in the BIO.
                if self._incoming.pending or self._incoming.eof or self._ssl.pending():
                    size = self._decrypt()
                    if size is not None:
                        return _buffers.plain[:size]
                # Reading can make bytes to send (a key update, RFC 8446, 4.6.3).
                if self._outgoing.pending:
                    await self._drain()
                await self._fill()
        except (OSError, ValueError) as exc:
            self._deaf = True
            raise self._break(exc) from exc

    def _decrypt(self) -> int | None:
        """Decrypt what there is into the shared buffer: how much, 0 at the end, None when more is needed."""
        size, most, read, incoming = 0, self._receive_size, self._read, self._incoming
        plain, places = _buffers.plain, _buffers.places
        try:
            while size < most:
                count = read(most - size, plain[size:] if size % RECORD else places[size // RECORD])
                if not count:
                    break
                size += count
                if not incoming.pending and not incoming.eof:
                    break  # what is left in OpenSSL, if anything, is a part of a record, or comes with the next call
        except ssl.SSLWantReadError:
            return size or None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            # An end without close-notify needs no alarm: HTTP/2 knows by itself whether a stream was whole.
            pass
        return size

    async def _fill(self) -> int:
        """Move ciphertext from the socket to the BIO, waiting for the first byte. 0: the peer has ended."""
        while True:
            if self._drained:
                self._drained, self._waited = False, True
                await trio.lowlevel.wait_readable(self._sock)
            try:
                size = self._sock.recv_into(_buffers.cipher, self._receive_size)
            except BlockingIOError:
                self._drained = True
            else:
                self._drained = size < FEW  # then more is seldom there: to look costs more than to be told
                if size:
                    self._incoming.write(_buffers.cipher[:size])
                else:
                    self._incoming.write_eof()
                return size

    def write(self, parts: Iterable[Buffer]) -> None:
        self._check_open()
        small = bytearray()  # what shares a record with what comes after it, as each record has its price
        try:
            for part in parts:
                rest = memoryview(part)
                if small or len(rest) < RECORD:
                    room = RECORD - len(small)
                    small += rest[:room]
                    rest = rest[room:]
                    if len(small) < RECORD:
                        continue
                    self._encrypt(small)
                    small = bytearray()
                while len(rest) >= RECORD:
                    self._encrypt(rest[:WRITE_SLICE])
                    rest = rest[WRITE_SLICE:]
                small += rest
            if small:
                self._encrypt(small)
            if not self._drain_lock.locked():
                self._offer()
        except (OSError, ValueError) as exc:
            raise self._break(exc) from exc

    def _encrypt(self, data: Buffer) -> None:
        """Into the BIO, and from there to the socket when it is worth a system call."""
        self._ssl.write(data)
        if self._outgoing.pending >= WRITE_SLICE and not self._drain_lock.locked():
            self._offer()

    def _offer(self) -> bool:
        """Give the socket what it takes now. True: nothing is left."""
        while True:
            if not self._unsent:
                if not self._outgoing.pending:
                    return True
                self._unsent = memoryview(self._outgoing.read())
            try:
                sent = self._sock.send(self._unsent)
            except BlockingIOError:
                return False
            self._unsent = self._unsent[sent:]

    async def drain(self) -> None:
        self._check_open()
        try:
            await self._drain()
        except OSError as exc:
            raise self._break(exc) from exc

    async def _drain(self) -> None:
        async with self._drain_lock:
            while not self._offer():
                await trio.lowlevel.wait_writable(self._sock)

    async def aclose(self) -> None:
        if not self._closed:
            if not self._broken and not self._unsent:
                with contextlib.suppress(ssl.SSLError, ValueError, OSError):
                    self._ssl.unwrap()  # queues close-notify, then wants to read the peer's: not waited for
            self._send_alert()
            self._close_socket()
        await trio.lowlevel.checkpoint()

    def _send_alert(self) -> None:
        """Offer what TLS has to say last (an alert that tells why, a close-notify) without waiting."""
        with contextlib.suppress(OSError):
            self._offer()

    def _close_socket(self) -> None:
        self._closed = True
        trio.lowlevel.notify_closing(self._sock)
        self._sock.close()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this connection was closed here")
        if self._broken:
            raise trio.BrokenResourceError("this connection broke before") from self._broken

    def _break(self, cause: BaseException) -> Exception:
        if self._closed:
            return trio.ClosedResourceError("this connection was closed here")
        self._broken = cause
        return trio.BrokenResourceError("the connection broke")


def _address(sock: socket.socket) -> str:
    try:
        name = sock.getpeername()
    except OSError:
        return "unknown"
    if isinstance(name, tuple):
        host, port = name[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(name)
