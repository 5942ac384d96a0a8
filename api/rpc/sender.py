"""What goes out on one HTTP/2 connection: who writes, and when.

A stream's own task does, under a FIFO lock, chunk after chunk while the socket takes all of it, so that what is
unsent is bounded by one chunk for the whole connection and a slow peer slows only its own calls. Whole small answers
are queued, and written at the end of a turn; a little message of a call that waits for what to send is written at once.
Control frames (window updates, PING answers, resets) are offered to the socket at once; what it does not take, the
flusher task sends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import h2.exceptions
import trio

from api.errors import CancelledError, RpcError, UnavailableError
from api.rpc import frames
from api.rpc.call_stream import OVERHEAD, CallStream
from api.rpc.codec import PREFIX, Buffer, Outgoing
from api.rpc.connection import Connection
from api.rpc.headers import Headers
from api.rpc.share import Share
from api.rpc.stream import ByteTransport

CHUNK: Final = 256 * 1024
"""DATA that one stream puts on the wire before it waits for the socket: the cap on unsent bytes, or nearly."""
WHOLE: Final = CHUNK + 2 * OVERHEAD
"""What goes out in one: a chunk is not cut for the bytes around a message."""
HELD: Final = 1024 * 1024
"""Bytes that all streams of a connection together may hold ready for the peer, as far as LEAST and Share allow."""
FEW: Final = 16
"""Of so many streams, each may hold more than its part of that, since a small message costs as much as a large one:"""
HELD_BY_FEW: Final = 192 * 1024
"""this at any time, and HELD while the peer takes what comes,"""
PROVEN: Final = 16 * 1024 * 1024
"""once it has taken so many bytes: more than there is room for between us and a peer that takes nothing."""
SMALL: Final = 64 * 1024
"""Bytes of whole answers that may wait for the next flush, and of the largest one that does not wait for the peer."""
REASON_PATIENCE: Final = 1.0
"""Seconds that a failed send waits for the reader to say why the connection broke."""


class Sender:
    """The writing side of a session.

    Attributes:
        streams: of the calls that are open, by id.
        opened: calls so far.
        sent: bytes of HTTP/2 so far.
        over: set when no call is open and none can be made any more.
        lost: once the connection is gone, the kind of error and the message that its calls end with.
    """

    def __init__(self, transport: ByteTransport, connection: Connection, share: Share | None) -> None:
        """
        Args:
            share: what the streams of other connections hold is counted there, too.
        """
        self.transport = transport
        self.connection = connection
        self.client_side = bool(connection.config.client_side)
        self.streams: dict[int, CallStream] = {}
        self.opened = 0
        self.sent = 0
        self.over = trio.Event()
        self.lost: tuple[type[RpcError], str] | None = None
        self._share = share or Share()
        self._in_turn = False  # of the reader, which ends with a flush
        self._send_lock = trio.Lock()
        self._flush_wanted = trio.Event()

    def open_stream(self, stream_id: int) -> CallStream:
        """A call begins."""
        self.opened += 1
        self._share.calls += 1
        stream = self.streams[stream_id] = CallStream(self, stream_id)
        return stream

    def flush(self) -> None:
        """Offer what the protocol wants to say to the socket. Never waits; the flusher sends the rest."""
        if not self.lost and not self._in_turn:
            data = self.connection.data_to_send()
            if data:
                self.sent += len(data)
                self._write((data,))

    def _write(self, wire: Sequence[Buffer]) -> None:
        try:
            self.transport.write(wire)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the reader meets the same error, and ends the connection
        if self.transport.pending:
            self._flush_wanted.set()

    async def flusher(self) -> None:
        """Send what :meth:`flush` could not. Runs as long as the connection."""
        while True:
            await self._flush_wanted.wait()
            self._flush_wanted = trio.Event()
            self.flush()
            try:
                await self.transport.drain()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # the reader meets the same error, and ends the connection

    def flush_soon(self) -> None:
        """:meth:`flush`, together with what other calls that are running now are about to say."""
        if self._in_turn:
            return  # the turn ends with a flush
        if len(self.streams) > 1:
            self._flush_wanted.set()
        else:
            self.flush()

    def _takes(self, size: int) -> bool:
        """So much may be queued without waiting: little is, and the peer reads. (Whoever has the lock and waits does so
        for a peer that does not.)"""
        return not (self.lost or self.transport.pending) and self.connection.unsent + size <= SMALL

    def answer(self, stream: CallStream, data: bytes) -> bool:
        """As :meth:`CallStream.answer`. Large answers and slow peers take the long way, which waits for the peer."""
        size = PREFIX.size + len(data)
        if not self._takes(size):
            return False
        try:
            if self.connection.send_window(stream.stream_id) < size:
                return False
            self.connection.respond(stream.stream_id, data)
        except h2.exceptions.ProtocolError:
            return False  # the long way meets the same, and knows what to make of it
        self.flush_soon()
        return True

    def send_at_once(self, stream: CallStream, message: tuple[Buffer, ...]) -> bool:
        """As :meth:`CallStream.send_at_once`."""
        if self.lost or self.transport.pending or self._send_lock.locked():
            return False  # the peer does not read, or others wait for their turn
        size = sum(map(len, message))
        wire = self.connection.h2_connection.say(stream.stream_id, message, size)
        if wire is None:
            return False  # the long way meets the reason, and knows what to make of it
        self._write((wire,))
        self.sent += PREFIX.size + size
        return True

    def ask(self, headers: Headers, data: bytes) -> CallStream | None:
        """Send a whole request without waiting; its stream. None: it has to go the long way."""
        if not self._takes(PREFIX.size + len(data)):
            return None
        stream_id = self.connection.request(headers, data)
        if not stream_id:
            return None
        stream = self.open_stream(stream_id)
        self.flush_soon()
        return stream

    async def send(self, stream: CallStream, outgoing: Outgoing, *, end_stream: bool) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                self._send_lock.acquire_nowait()  # without a turn of the loop; others that wait were given it already
            except trio.WouldBlock:
                await self._send_lock.acquire()
            try:
                taken = self._put(stream, outgoing, end_stream)
                while taken and outgoing.size and not self.transport.pending:
                    taken = self._put(stream, outgoing, end_stream)  # the socket has taken all of it
                if self.transport.pending:
                    try:
                        await self._drain()
                    finally:
                        if self.transport.pending:  # cancelled: a frame once begun is finished by the flusher
                            self._flush_wanted.set()
            finally:
                self._send_lock.release()
            if not outgoing.size:
                return
            if not taken:
                await stream.window_opened()

    def start_response(self, stream: CallStream) -> None:
        """As :meth:`CallStream.start_response`."""
        try:
            self.connection.start_response(stream.stream_id, "+proto")
        except h2.exceptions.ProtocolError as exc:  # given up while the call was at something else
            self._check(stream)
            raise CancelledError("the peer gave up the call") from exc
        self.flush()

    def window(self, stream: CallStream) -> int:
        """Bytes of this stream that the peer accepts now; 0, or less, when it accepts none.

        Raises:
            CancelledError, UnavailableError: the peer gave the stream up, or the connection is lost.
        """
        try:
            window = self.connection.send_window(stream.stream_id)
        except h2.exceptions.ProtocolError as exc:
            self._check(stream)
            raise CancelledError("the peer gave up the call") from exc
        self._check(stream)
        return window

    def share(self) -> int:
        """Bytes of each stream that may be held here, ready for the peer."""
        count = len(self.streams)
        each = HELD // count
        if count <= FEW:
            trusted = self.sent > PROVEN and not self.transport.pending
            each = HELD if trusted else max(each, HELD_BY_FEW)
        return min(each, self._share.of_each)

    def _put(self, stream: CallStream, outgoing: Outgoing, end_stream: bool) -> int:
        """Put as much on the wire as window and chunk allow; 0 when the window is shut."""
        try:
            size = min(self.connection.send_window(stream.stream_id), outgoing.size)
            if size > WHOLE:
                size = CHUNK - frames.HEADER_SIZE  # with its header, what whole records of TLS have room for
            if size <= 0:
                self._check(stream)
                stream.shut_window()
                return 0
            parts = outgoing.take(size)
            wire = self.connection.message_frames(stream.stream_id, parts, end_stream=end_stream and not outgoing.size)
        except h2.exceptions.ProtocolError as exc:
            self._check(stream)
            raise CancelledError("the peer gave up the call") from exc
        self._write(wire)
        self.sent += size
        return size

    def _check(self, stream: CallStream) -> None:
        if self.lost:
            raise self.lost_error()
        if stream.failure:
            raise stream.failure

    async def _drain(self) -> None:
        try:
            await self.transport.drain()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            # The reader may be about to learn why (an alert that refuses our certificate): its word is better.
            with trio.move_on_after(REASON_PATIENCE):
                await self.over.wait()
            raise (self.lost_error() if self.lost else UnavailableError("the connection was lost")) from exc

    def lost_error(self) -> RpcError:
        """A new exception that says why the connection takes no more calls."""
        error, message = self.lost or (UnavailableError, "the server is going away; connect again")
        return error(message)
