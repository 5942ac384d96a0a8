"""One HTTP/2 connection in action: its reader and flusher tasks, and the streams of calls on it.

Who writes: a stream's own task, under a FIFO lock, chunk after chunk while the socket takes all of it, so that what is
unsent is bounded by one chunk for the whole connection and a slow peer slows only its own calls. Whole small answers
are queued, and written at the end of a turn. Control frames (window updates, PING
answers, resets) are offered to the socket at once; what it does not take, the flusher task sends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final, Literal, Protocol

import h2.exceptions
import trio
from h2.errors import ErrorCodes
from purerpc.grpclib.exceptions import ProtocolError

from api.errors import CancelledError, RpcError, UnavailableError
from api.rpc.access import Access
from api.rpc.call_stream import OVERHEAD, CallStream
from api.rpc.codec import PREFIX, Buffer, Outgoing
from api.rpc.connection import Connection, Event
from api.rpc.events import (
    GoAway,
    Pong,
    Request,
    RequestEnded,
    RequestReceived,
    ResponseReceived,
    WindowUpdated,
)
from api.rpc.headers import Headers
from api.rpc.share import Share
from api.rpc.stream import ByteTransport
from api.rpc.windows import USUAL, Windows

CHUNK: Final = 256 * 1024
"""DATA that one stream puts on the wire before it waits for the socket: the cap on unsent bytes."""
HELD: Final = 1024 * 1024
"""Bytes that all streams of a connection together may hold ready for the peer, as far as LEAST and Share allow."""
FEW: Final = 16
"""So many may hold that much each, while the peer takes what comes,"""
PROVEN: Final = 16 * 1024 * 1024
"""once it has taken so many bytes: more than there is room for between us and a peer that takes nothing."""
TURN: Final = 1024
"""Bytes of a client's that are looked at before others have their turn, the rest of a DATA frame not counted: so many
small frames are a few milliseconds' work."""
SMALL: Final = 64 * 1024
"""Bytes of whole answers that may wait for the next flush, and of the largest one that does not wait for the peer."""
CONTROL_LIMIT: Final = 1024 * 1024
"""Unsent control bytes at which a peer that asks and does not read is no longer read from."""

REASON_PATIENCE: Final = 1.0
"""Seconds that a failed send waits for the reader to say why the connection broke."""

# What the outside can do to a connection; each costs this connection only.
CONNECTION_ERRORS: Final = (
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    h2.exceptions.ProtocolError,
    ProtocolError,
)


class Requests(Protocol):
    """What a server makes of requests, in the turn of the connection's reader."""

    def begin(self, stream: CallStream, request: Request) -> None:
        """The headers of one have come."""

    def complete(self, stream: CallStream) -> None:
        """All of one has come."""

    def settle(self) -> None:
        """The turn is over."""


class Session:
    """A connection over a transport. ``run`` is its life; the owner's nursery is where it lives.

    Attributes:
        peer_certificate: the verified certificate of the other end (DER), if there is one.
        access: whether the peer is let in; of a server's.
        opened: calls so far.
        received, sent: bytes of HTTP/2 so far.
        going_away: the peer has announced that it takes no further streams (GOAWAY), or the connection is lost.
        over: set when no call is open and none can be made any more.
        lost: once the connection is gone, the kind of error and the message that its calls end with.
    """

    def __init__(
        self,
        transport: ByteTransport,
        *,
        client_side: bool,
        share: Share | None = None,
        access: Access | None = None,
        windows: Windows = USUAL,
    ) -> None:
        """
        Args:
            windows: how much the peer may send before it was taken.
            share: what the streams of other connections hold is counted there, too.
            access: whether the peer is let in; of a server's.
        """
        self._share = share or Share()
        self.transport = transport
        self.peer_certificate = transport.peer_certificate
        self.client_side = client_side
        self.access = access or Access()
        self.connection = Connection(client_side=client_side, windows=windows)
        self.streams: dict[int, CallStream] = {}
        self.opened = 0
        self.received = self.sent = 0
        self.going_away = False
        self.lost: tuple[type[RpcError], str] | None = None
        self.over = trio.Event()
        self._window_opened = False  # the connection's, in the turn at hand
        self._in_turn = False
        self._send_lock = trio.Lock()
        self._flush_wanted = trio.Event()
        self._ping_answered = trio.Event()

    def start(self) -> None:
        """Send the connection preface and settings."""
        self.connection.initiate_connection()
        self.flush()

    def open_stream(self, stream_id: int) -> CallStream:
        self.opened += 1
        self._share.calls += 1
        stream = self.streams[stream_id] = CallStream(self, stream_id)
        return stream

    def forget(self, stream: CallStream) -> None:
        """The call is over: what came and was not taken, and what still comes, is dropped."""
        if self.streams.pop(stream.stream_id, None):
            self._share.calls -= 1
        unread = stream.take_unread()
        if unread and not self.lost:
            self.connection.acknowledge_received_data(stream.stream_id, unread)
            self.flush()
        if self.going_away and not self.streams:
            self.over.set()
        self.connection.forget(stream.stream_id)

    # ---- in

    async def read(self, requests: Requests | None = None) -> None:
        """Read until the peer ends the connection, handing each event to its stream and each request to the server.

        What is said during a turn is flushed at its end.

        Raises:
            CONNECTION_ERRORS: the connection broke, or the peer broke the protocol.
        """
        while len(data := await self.transport.receive()):
            self.received += len(data)
            view = memoryview(data)
            rest = view[self._turn(view, requests) :]
            if rest:
                rest = memoryview(bytes(rest))  # what was received is good until the next await only
            while rest:
                await trio.lowlevel.checkpoint()  # it is others' turn
                rest = rest[self._turn(rest, requests) :]
            if self.transport.pending > CONTROL_LIMIT:
                await self.transport.drain()

    def _turn(self, view: memoryview, requests: Requests | None) -> int:
        """Take what a turn takes of what has come; how much that is."""
        most = len(view) if self.client_side else max(TURN, self.connection.data_left)
        self._in_turn = True
        try:
            events, taken = self.connection.receive_turn(view, most)
            for event in events:
                if isinstance(event, RequestReceived) and requests:
                    requests.begin(self.open_stream(event.stream_id), event.request)
                    continue
                self._dispatch(event)
                if isinstance(event, RequestEnded) and requests:
                    stream = self.streams.get(event.stream_id)
                    if stream:
                        requests.complete(stream)
            if self._window_opened:  # once, however many frames said so
                self._window_opened = False
                for stream in self.streams.values():
                    stream.open_window()
            if requests:
                requests.settle()
        finally:
            self._in_turn = False
            self.flush()  # also the GOAWAY that says what the peer did wrong
        return taken

    def _dispatch(self, event: Event) -> None:
        match event:
            case GoAway():
                self.going_away = True
                why = "is going away" if event.error_code != ErrorCodes.ENHANCE_YOUR_CALM else "has too much of us"
                for stream in [s for s in self.streams.values() if s.stream_id > event.last_stream_id]:
                    stream.fail(UnavailableError(f"the server {why} and did not take this call"))
            case Pong():
                self._ping_answered.set()
            case WindowUpdated() if event.stream_id == 0:
                self._window_opened = True
            case ResponseReceived():
                pass
            case _:
                stream_or_none = self.streams.get(event.stream_id)
                if stream_or_none:
                    stream_or_none.handle(event)

    # ---- out

    def flush(self) -> None:
        """Offer what the protocol wants to say to the socket. Never waits; the flusher sends the rest."""
        if not self.lost and not self._in_turn:
            data = self.connection.data_to_send()
            if data:
                self.sent += len(data)
                self._write((data,))

    def _write(self, wire: Sequence[Buffer]) -> None:
        # The reader meets the same error, and ends the connection.
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            self.transport.write(wire)
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
        trusted = count <= FEW and self.sent > PROVEN and not self.transport.pending
        return min(HELD if trusted else HELD // count, self._share.of_each)

    def _put(self, stream: CallStream, outgoing: Outgoing, end_stream: bool) -> int:
        """Put as much on the wire as window and chunk allow; 0 when the window is shut."""
        try:
            size = min(self.connection.send_window(stream.stream_id), CHUNK + OVERHEAD, outgoing.size)
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

    # ---- life

    async def ping(self, timeout: float) -> Literal[True]:
        """Ask the peer for a sign of life.

        Raises:
            trio.TooSlowError: none came within ``timeout`` seconds.
            trio.BrokenResourceError: the connection was lost.
        """
        self._ping_answered = trio.Event()
        if not self.lost:
            self.connection.send_ping()
            self.flush()
            with trio.fail_after(timeout):
                await self._ping_answered.wait()
        if self.lost:
            raise trio.BrokenResourceError("the connection was lost")
        return True

    def lose(self, message: str, error: type[RpcError] = UnavailableError) -> None:
        """The connection is gone: every call on it ends with ``error``, and so does every later one."""
        if self.lost is None:
            self.lost = (error, message)
            self.over.set()
        self._ping_answered.set()
        self.going_away = True
        for stream in list(self.streams.values()):
            stream.fail(self.lost_error())

    def lost_error(self) -> RpcError:
        """A new exception that says why the connection takes no more calls."""
        error, message = self.lost or (UnavailableError, "the server is going away; connect again")
        return error(message)
