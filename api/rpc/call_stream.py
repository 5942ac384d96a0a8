"""One call's stream, as the task of the call sees it; either side."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import h2.exceptions
import trio

from api.errors import CancelledError, RpcError
from api.rpc.codec import Buffer, Outgoing, Parts, WireMessage, whole
from api.rpc.connection import Event
from api.rpc.events import MessageReceived, RequestEnded, ResponseEnded, StreamFailed, StreamReset, WindowUpdated

if TYPE_CHECKING:
    from api.rpc.sender import Sender


MORE_IS_COMING: Final = 0.05
"""Seconds for which the last bytes of a window are left, so that it may open first (the silly window syndrome:
RFC 9293, 3.8.6.2.1)."""
LEAST: Final = 1024
"""Bytes that a stream may always hold ready, or a window opened byte by byte would cost much more than it moves."""
OVERHEAD: Final = 64
"""Bytes that a message takes beside its payload."""


class CallStream:
    """One call's stream, either side: messages in, messages out, its end.

    Attributes:
        lost: the peer has given it up, or its connection is lost.
        on_reset: called when the peer gives the stream up, the connection is lost, or the peer is not let in any more.
    """

    __slots__ = (
        "_arrived",
        "_at_end",
        "_ended",
        "_error",
        "_messages",
        "_outgoing",
        "_session",
        "_taker",
        "_usual",
        "_window_opened",
        "lost",
        "on_reset",
        "stream_id",
    )

    def __init__(self, session: Sender, stream_id: int) -> None:
        self._session = session
        self.stream_id = stream_id
        self._messages: deque[MessageReceived] = deque()
        # Both events are there when somebody waits, or has looked and is about to wait.
        self._arrived: trio.Event | None = None
        self._window_opened: trio.Event | None = None
        self._taker: Callable[[Parts], bool] | None = None  # of who waits
        self._outgoing: Outgoing | None = None  # what is being sent
        self._at_end = False  # whoever waits for what arrives waits for the end
        self._usual = 0  # how much the peer accepts of late, when it accepts most
        self._ended = False  # the peer sends no more messages
        self._error: RpcError | None = None
        self.lost = False
        self.on_reset: Callable[[], None] | None = None

    # ---- what arrives; called by the session

    def handle(self, event: Event) -> None:
        match event:
            case MessageReceived():
                if self._taker is not None and not self._messages and self._taker(event.data):
                    self._credit(event)
                    return
                self._messages.append(event)
                if self._at_end and len(self._messages) == 1:
                    return
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
                self.open_window()
                return
            case _:
                return
        if self._arrived is not None:
            self._arrived.set()

    def open_window(self) -> None:
        """The peer may accept more now."""
        if self._window_opened is not None:
            self._window_opened.set()
            self._window_opened = None

    def fail(self, error: RpcError) -> None:
        """End the stream because its connection is lost."""
        if not self._ended:
            self._ended, self._error = True, error
        if self._arrived is not None:
            self._arrived.set()
        self._lost()

    @property
    def unread(self) -> int:
        """What the messages that nobody took have of the connection's window."""
        return sum(event.flow_controlled_length for event in self._messages)

    @property
    def ready(self) -> int:
        """Bytes that are held for the peer, until its window and their turn let them be sent."""
        return self._outgoing.size if self._outgoing else 0

    def take_unread(self) -> int:
        """Drop the messages that nobody took; returns their part of the connection's window."""
        if not self._messages:
            return 0
        unread = self.unread
        self._messages.clear()
        return unread

    def _end(self, error: RpcError | None) -> None:
        # A client's stream ends once, with the response; a server's request may be whole and then be given up.
        if not (self._ended and self._session.client_side):
            self._ended, self._error = True, error

    def _lost(self) -> None:
        self.lost = True
        self.open_window()
        if self.on_reset:
            self.on_reset()

    # ---- what the call's task does

    @property
    def whole(self) -> bool:
        """The peer's side has ended well with its first message, which nobody has taken yet."""
        return self._ended and self._error is None and len(self._messages) == 1

    def take_whole(self) -> Buffer | None:
        """The one message, if the peer's side is whole. Never waits."""
        return whole(self._take()) if self.whole else None

    async def receive_message(self) -> Buffer | None:
        """The next message, or None after the last.

        Raises:
            RpcError: as for :meth:`receive_parts`.
        """
        parts = await self.receive_parts()
        return None if parts is None else whole(parts)

    async def receive_parts(self, taker: Callable[[Parts], bool] | None = None) -> Parts | None:
        """The next message as it came, or None after the last.

        Args:
            taker: is offered what comes while this waits, in the turn in which it came; what it takes (True) is not
                given. It neither waits nor raises.

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
            self._arrived, self._taker = trio.Event(), taker
            try:
                await self._arrived.wait()
            finally:
                self._taker = None
        return self._take()

    def _take(self) -> Parts:
        event = self._messages.popleft()
        self._credit(event)
        parts: Parts = event.data
        return parts

    def _credit(self, event: MessageReceived) -> None:
        """It was taken: the peer may send as much again."""
        if event.flow_controlled_length:
            self._session.connection.acknowledge_received_data(self.stream_id, event.flow_controlled_length)
            self._session.flush()

    async def ended(self) -> None:
        """Wait until the peer sends no more, or has sent two messages. For calls with one answer: one wake-up does."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._ended and len(self._messages) < 2:
            self._arrived = trio.Event()
            self._at_end = True
            await self._arrived.wait()

    async def writable(self) -> int:
        """Wait until the peer accepts more of this stream: what it does not want yet need not be held.

        Returns:
            bytes that are worth holding for it now.

        Raises:
            CancelledError, UnavailableError: as for :meth:`send_message`.
        """
        if self._usual:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()  # the first time: others that came with it share what there is
        until = math.inf
        while True:
            window = self._session.window(self)
            self._usual = max(self._usual, window)
            if 0 < window >= self._usual // 4:
                break
            # The end of a window: a small message now would be followed by a small one each time that it opens.
            if window <= 0:
                until = math.inf
            elif until == math.inf:
                until = trio.current_time() + MORE_IS_COMING
            elif trio.current_time() >= until:
                self._usual = window
                break
            self.shut_window()
            with trio.move_on_at(until):
                await self.window_opened()
        return max(min(window - OVERHEAD, self._session.share()), LEAST)

    def shut_window(self) -> None:
        """The peer accepts nothing, or little, now: it is worth waiting for :meth:`window_opened`."""
        self._window_opened = trio.Event()

    async def window_opened(self) -> None:
        """Wait until the peer accepts more, if it did not at the last look, or the stream is lost."""
        if self._window_opened is not None:
            await self._window_opened.wait()

    async def send_message(self, data: WireMessage, *, end_stream: bool = False) -> None:
        """Send one message; returns when the kernel has taken all of it (so at most one chunk is unsent).

        Raises:
            CancelledError: the peer gave the stream up.
            UnavailableError: the connection is lost.
        """
        await self.send_messages((data,), end_stream=end_stream)

    async def send_messages(self, messages: Sequence[WireMessage], *, end_stream: bool = False) -> None:
        """Send several messages in one go; otherwise as :meth:`send_message`."""
        self._outgoing = Outgoing(messages)
        try:
            await self._session.send(self, self._outgoing, end_stream=end_stream)
        finally:
            self._outgoing = None

    def send_at_once(self, message: tuple[Buffer, ...]) -> bool:
        """Send one little message without waiting, and without a turn of the loop. False: it has to go the long way."""
        return self._session.send_at_once(self, message)

    def answer(self, data: bytes) -> bool:
        """Send a whole response, from its headers to OK, without waiting. False: it has to go the long way."""
        return self._session.answer(self, data)

    def start_response(self) -> None:
        """Send the response's headers. Never waits.

        Raises:
            CancelledError, UnavailableError: as for :meth:`send_message`.
        """
        self._session.start_response(self)

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
