"""One HTTP/2 connection in action: its reader and flusher tasks, and the streams of calls on it.

Who writes: a stream's own task, one chunk at a time under a FIFO lock, so that what is unsent is bounded by one
chunk for the whole connection and a slow peer slows only its own calls. Control frames (window updates, PING
answers, resets) are offered to the socket at once; what it does not take, the flusher task sends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Literal

import h2.exceptions
import trio
from purerpc.grpclib.exceptions import ProtocolError

from api.errors import CancelledError, RpcError, UnavailableError
from api.rpc.codec import PREFIX
from api.rpc.connection import Connection, Event
from api.rpc.events import (
    GoAway,
    MessageReceived,
    Pong,
    RequestEnded,
    RequestReceived,
    ResponseEnded,
    ResponseReceived,
    StreamFailed,
    StreamReset,
    WindowUpdated,
)
from api.rpc.stream import ByteTransport

CHUNK: Final = 256 * 1024
"""DATA that one stream puts on the wire before it waits for the socket: the cap on unsent bytes."""
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


class CallStream:
    """One call's stream, either side: messages in, messages out, its end.

    Attributes:
        on_reset: called when the peer gives the stream up or the connection is lost.
    """

    def __init__(self, session: Session, stream_id: int) -> None:
        self._session = session
        self.stream_id = stream_id
        self._messages: deque[MessageReceived] = deque()
        self._arrived = trio.Event()
        self.window_opened = trio.Event()
        self._ended = False  # the peer sends no more messages
        self._error: RpcError | None = None
        self.on_reset: Callable[[], None] | None = None

    # ---- what arrives; called by the session

    def handle(self, event: Event) -> None:
        match event:
            case MessageReceived():
                self._messages.append(event)
            case RequestEnded():
                self._ended = True
            case ResponseEnded():
                self._end(event.error)
            case StreamFailed():
                self._end(event.error)
            case StreamReset():
                self._end(CancelledError(f"the peer gave up the call (HTTP/2 error {event.error_code})"))
                self._lost()
            case WindowUpdated():
                self.window_opened.set()
                return
            case _:
                return
        self._arrived.set()

    def fail(self, error: RpcError) -> None:
        """End the stream because its connection is lost."""
        if not self._ended:
            self._ended, self._error = True, error
        self._arrived.set()
        self._lost()

    def take_unread(self) -> int:
        """Drop the messages that nobody took; returns their part of the connection's window."""
        unread: int = sum(event.flow_controlled_length for event in self._messages)
        self._messages.clear()
        return unread

    def _end(self, error: RpcError | None) -> None:
        # A client's stream ends once, with the response; a server's request may be whole and then be given up.
        if not (self._ended and self._session.client_side):
            self._ended, self._error = True, error

    def _lost(self) -> None:
        self.window_opened.set()
        if self.on_reset:
            self.on_reset()

    # ---- what the call's task does

    async def receive_message(self) -> bytes | None:
        """The next message, or None after the last.

        Raises:
            RpcError: the peer, or the loss of the connection, ended the call with an error. Messages that came
                before it are given first.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._messages:
            if self._ended:
                if self._error:
                    raise self._error
                return None
            self._arrived = trio.Event()
            await self._arrived.wait()
        event = self._messages.popleft()
        if event.flow_controlled_length:
            self._session.connection.acknowledge_received_data(self.stream_id, event.flow_controlled_length)
            self._session.flush()
        return bytes(event.data)

    async def writable(self) -> None:
        """Wait until the peer accepts more of this stream: what it does not want yet need not be held.

        Raises:
            CancelledError, UnavailableError: as for :meth:`send_message`.
        """
        await trio.lowlevel.checkpoint()
        while not self._session.has_window(self):
            await self.window_opened.wait()

    async def send_message(self, data: bytes, *, end_stream: bool = False) -> None:
        """Send one message; returns when the kernel has taken all of it (so at most one chunk is unsent).

        Raises:
            CancelledError: the peer gave the stream up.
            UnavailableError: the connection is lost.
        """
        await self.send_messages((data,), end_stream=end_stream)

    async def send_messages(self, messages: Sequence[bytes], *, end_stream: bool = False) -> None:
        """Send several messages in one go; otherwise as :meth:`send_message`."""
        framed = b"".join([piece for data in messages for piece in (PREFIX.pack(False, len(data)), data)])
        await self._session.send(self, framed, end_stream=end_stream)

    def end_request(self) -> None:
        """Send no more messages. Never waits; harmless when the stream has ended."""
        try:
            self._session.connection.h2_connection.end_stream(self.stream_id)
        except h2.exceptions.ProtocolError:
            return
        self._session.flush()

    def end_response(self, error: RpcError | None, *, response_started: bool) -> None:
        """Send the trailers, if the stream is still there. Never waits."""
        try:
            self._session.connection.finish(self.stream_id, error, response_started=response_started)
        except h2.exceptions.ProtocolError:
            return  # the peer has reset the stream, or the connection is going down: nobody to tell
        self._session.flush()

    def cancel(self) -> None:
        """Give the stream up and tell the peer. Never waits; harmless when it has ended."""
        self._session.connection.cancel(self.stream_id)
        self._session.flush()

    @property
    def failure(self) -> RpcError | None:
        """The error that the peer ended the stream with, once it has."""
        return self._error


class Session:
    """A connection over a transport. ``run`` is its life; the owner's nursery is where it lives.

    Attributes:
        going_away: the peer has announced that it takes no further streams (GOAWAY), or the connection is lost.
        over: set when no call is open and none can be made any more.
        lost: once the connection is gone, the kind of error and the message that its calls end with.
    """

    def __init__(self, transport: ByteTransport, *, client_side: bool) -> None:
        self.transport = transport
        self.client_side = client_side
        self.connection = Connection(client_side=client_side)
        self.streams: dict[int, CallStream] = {}
        self.going_away = False
        self.lost: tuple[type[RpcError], str] | None = None
        self.over = trio.Event()
        self._window_opened = False  # the connection's, in the batch of input at hand
        self._send_lock = trio.Lock()
        self._flush_wanted = trio.Event()
        self._ping_answered = trio.Event()

    def start(self) -> None:
        """Send the connection preface and settings."""
        self.connection.initiate_connection()
        self.flush()

    def open_stream(self, stream_id: int) -> CallStream:
        stream = self.streams[stream_id] = CallStream(self, stream_id)
        return stream

    def forget(self, stream: CallStream) -> None:
        """The call is over: what came and was not taken, and what still comes, is dropped."""
        self.streams.pop(stream.stream_id, None)
        unread = stream.take_unread()
        if unread and not self.lost:
            self.connection.acknowledge_received_data(stream.stream_id, unread)
            self.flush()
        if self.going_away and not self.streams:
            self.over.set()
        # h2 forgets closed streams, and their buffers, only when it counts the open ones.
        _ = self.connection.h2_connection.open_inbound_streams

    # ---- in

    async def read(self, on_request: Callable[[CallStream, RequestReceived], None] | None = None) -> None:
        """Read until the peer ends the connection, handing each event to its stream and each request to the server.

        Raises:
            CONNECTION_ERRORS: the connection broke, or the peer broke the protocol.
        """
        while data := await self.transport.receive():
            try:
                events = self.connection.receive_data(data)
            finally:
                self.flush()  # also the GOAWAY that says what the peer did wrong
            for event in events:
                if isinstance(event, RequestReceived) and on_request:
                    on_request(self.open_stream(event.stream_id), event)
                else:
                    self._dispatch(event)
            if self._window_opened:  # once, however many frames said so
                self._window_opened = False
                for stream in self.streams.values():
                    stream.window_opened.set()
            self.flush()
            if self.transport.pending > CONTROL_LIMIT:
                await self.transport.drain()

    def _dispatch(self, event: Event) -> None:
        match event:
            case GoAway():
                self.going_away = True
                for stream in [s for s in self.streams.values() if s.stream_id > event.last_stream_id]:
                    stream.fail(UnavailableError("the server is going away and did not take this call"))
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
        if self.lost:
            return
        data = self.connection.data_to_send()
        try:
            if data:
                self.transport.write((data,))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the reader meets the same error, and ends the connection
        if self.transport.pending:
            self._flush_wanted.set()

    async def flusher(self) -> None:
        """Send what :meth:`flush` could not. Runs as long as the connection."""
        while True:
            await self._flush_wanted.wait()
            self._flush_wanted = trio.Event()
            try:
                await self.transport.drain()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # the reader meets the same error, and ends the connection

    async def send(self, stream: CallStream, data: bytes, *, end_stream: bool) -> None:
        view = memoryview(data)
        while True:
            async with self._send_lock:
                taken = self._put(stream, view, end_stream)
                if taken:
                    view = view[taken:]
                    try:
                        await self._drain()
                    except BaseException:  # Cancelled above all: a frame once begun is finished by the flusher
                        self._flush_wanted.set()
                        raise
            if not view:
                return
            if not taken:
                await stream.window_opened.wait()

    def has_window(self, stream: CallStream) -> bool:
        """The peer accepts bytes of this stream now. When not, its ``window_opened`` tells when to ask again."""
        try:
            if self.connection.send_window(stream.stream_id) > 0:
                return True
        except h2.exceptions.ProtocolError as exc:
            self._check(stream)
            raise CancelledError("the peer gave up the call") from exc
        self._check(stream)
        stream.window_opened = trio.Event()
        return False

    def _put(self, stream: CallStream, view: memoryview, end_stream: bool) -> int:
        """Put as much of the data on the wire as window and chunk allow; 0 when the window is shut."""
        try:
            size = min(self.connection.send_window(stream.stream_id), CHUNK, len(view))
            if size <= 0:
                self._check(stream)
                stream.window_opened = trio.Event()
                return 0
            self.connection.send_message_data(
                stream.stream_id, view[:size], end_stream=end_stream and size == len(view)
            )
        except h2.exceptions.ProtocolError as exc:
            self._check(stream)
            raise CancelledError("the peer gave up the call") from exc
        self.flush()
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
        """
        self._ping_answered = trio.Event()
        self.connection.send_ping()
        self.flush()
        with trio.fail_after(timeout):
            await self._ping_answered.wait()
        return True

    def lose(self, message: str, error: type[RpcError] = UnavailableError) -> None:
        """The connection is gone: every call on it ends with ``error``, and so does every later one."""
        if self.lost is None:
            self.lost = (error, message)
            self.over.set()
        self.going_away = True
        for stream in list(self.streams.values()):
            stream.fail(self.lost_error())

    def lost_error(self) -> RpcError:
        """A new exception that says why the connection takes no more calls."""
        error, message = self.lost or (UnavailableError, "the server is going away; connect again")
        return error(message)
