"""One HTTP/2 connection in action: its reader and flusher tasks, and the streams of calls on it.

What comes in is read here; ``api.rpc.sender`` is what goes out.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol

import h2.exceptions
import trio
from h2.errors import ErrorCodes
from purerpc.grpclib.exceptions import ProtocolError

from api.errors import RpcError, UnavailableError
from api.rpc.access import Access
from api.rpc.call_stream import CallStream
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
from api.rpc.sender import Sender
from api.rpc.share import Share
from api.rpc.stream import ByteTransport
from api.rpc.windows import USUAL, Windows

TURN: Final = 1024
"""Bytes of a client's that are looked at before others have their turn, the rest of a DATA frame not counted: so many
small frames are a few milliseconds' work."""
CONTROL_LIMIT: Final = 1024 * 1024
"""Unsent control bytes at which a peer that asks and does not read is no longer read from."""

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


class Session(Sender):
    """A connection over a transport. ``run`` is its life; the owner's nursery is where it lives.

    Attributes:
        peer_certificate: the verified certificate of the other end (DER), if there is one.
        access: whether the peer is let in; of a server's.
        received: bytes of HTTP/2 so far.
        going_away: the peer has announced that it takes no further streams (GOAWAY), or the connection is lost.
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
        super().__init__(transport, Connection(client_side=client_side, windows=windows), share)
        self.peer_certificate = transport.peer_certificate
        self.access = access or Access()
        self.received = 0
        self.going_away = False
        self._window_opened = False  # the connection's, in the turn at hand
        self._ping_answered = trio.Event()

    def start(self) -> None:
        """Send the connection preface and settings."""
        self.connection.initiate_connection()
        self.flush()

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
                if requests and isinstance(event, RequestReceived):
                    requests.begin(self.open_stream(event.stream_id), event.request)
                    continue
                self._dispatch(event)
                if requests and isinstance(event, RequestEnded):
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
