"""The client's side of a connection: connect, call, follow; every call ends, whatever the server does."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Generic, Literal

import h2.exceptions
import trio
from purerpc.grpclib.headers import sanitize_headers

from api.background import background_nursery
from api.errors import DeadlineExceededError, InternalError, UnavailableError
from api.methods import Method, Request, Response
from api.rpc.call_stream import CallStream
from api.rpc.codec import Buffer, Parts, decode, encode_request, whole
from api.rpc.connect import alert_of, connect, handshake_error
from api.rpc.headers import Headers, request_headers
from api.rpc.session import CONNECTION_ERRORS, Session
from api.rpc.stream import ByteTransport
from api.rpc.windows import USUAL, Windows
from api.trace import TraceContext, metadata_of

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for TCP, TLS and the server's settings together."""
KEEPALIVE: Final = 20.0
"""Seconds between PINGs, and until an unanswered one means that the connection is lost."""

Metadata = tuple[tuple[str, str], ...]
"""What a call says beside its messages."""


class Channel:
    """An open connection to a server. Made by :func:`open_channel`."""

    def __init__(self, session: Session, authority: str, metadata: Metadata = ()) -> None:
        self._session = session
        self._metadata = tuple(sanitize_headers(metadata))
        self._authority = authority
        self._headers: dict[tuple[str, str], Headers] = {}  # of calls without a timeout

    def saying(self, metadata: Metadata) -> Channel:
        """The same connection, for calls that say something else beside their messages."""
        return Channel(self._session, self._authority, metadata)

    @property
    def usable(self) -> bool:
        """New calls can be made on this channel."""
        return not self._session.going_away

    @property
    def received(self) -> int:
        """Bytes of HTTP/2 that came so far."""
        return self._session.received

    async def lost(self) -> None:
        """Return when the connection can carry no call any more, and none is open."""
        await self._session.over.wait()

    async def greet(self, timeout: float) -> Literal[True]:
        """Ask the server for a sign of life; without it nobody knows yet that HTTP/2 is spoken there.

        Raises:
            trio.TooSlowError: there was none within ``timeout`` seconds.
            RpcError: the connection was lost.
        """
        try:
            return await self._session.ping(timeout)
        except trio.BrokenResourceError as exc:
            raise self._session.lost_error() from exc

    async def exchange(self, service: str, name: str, request: bytes, *, timeout: float) -> Buffer:
        """:meth:`unary` with another's messages, as bytes.

        Raises:
            RpcError: as for :meth:`unary`.
        """
        return await self._exchange(service, name, request, timeout)

    async def _exchange(self, service: str, name: str, request: bytes, timeout: float | None) -> Buffer:
        stream = self._session.ask(self._said_first(service, name, timeout), request) if self.usable else None
        sent = stream is not None
        if stream is None:
            stream = self.begin(service, name, timeout)
        try:
            if timeout is None:
                return await self._answer(stream, request, service, name, sent=sent)
            with trio.move_on_after(timeout):
                return await self._answer(stream, request, service, name, sent=sent)
            raise DeadlineExceededError(f"/{service}/{name} gave no answer within {timeout:g} s")
        finally:
            self.end(stream)

    @staticmethod
    async def _answer(stream: CallStream, request: bytes, service: str, name: str, *, sent: bool) -> Buffer:
        if not sent:
            await stream.send_message(request, end_stream=True)
        await stream.ended()
        answer = await stream.receive_message()
        if answer is None or await stream.receive_message() is not None:
            raise InternalError(f"the server answered /{service}/{name} with OK and not with one message")
        return answer

    async def unary(
        self, method: Method[Request, Response], request: Request, *, timeout: float | None = None
    ) -> Response:
        """Make a call with one answer.

        Args:
            timeout: seconds; also told to the server.

        Raises:
            RpcError: the call ended with a status other than OK, or the connection was lost (UnavailableError).
        """
        asked = encode_request(request)
        return decode(method.response, await self._exchange(method.service, method.name, asked, timeout))

    @asynccontextmanager
    async def call(
        self, method: Method[Request, Response], request: Request, *, timeout: float | None = None
    ) -> AsyncIterator[Answers[Response]]:
        """Make a call and read its answers. Leaving the block early gives the call up (RST_STREAM).

        Raises:
            DeadlineExceededError: the timeout passed before the block was left.
            RpcError: as for :meth:`unary`.
        """
        stream = self.begin(method.service, method.name, timeout)
        try:
            if timeout is None:
                # No cancel scope: a stream is entered in one scope of its user's and left in another.
                await stream.send_message(encode_request(request), end_stream=True)
                yield Answers(stream, method.response)
                return
            with trio.move_on_after(timeout) as scope:
                await stream.send_message(encode_request(request), end_stream=True)
                yield Answers(stream, method.response)
            if scope.cancelled_caught:
                raise DeadlineExceededError(f"{method.path} gave no answer within {timeout:g} s")
        finally:
            self.end(stream)

    @asynccontextmanager
    async def converse(self, method: Method[Request, Response]) -> AsyncIterator[Conversation[Request, Response]]:
        """Make a call in which both sides speak. Leaving the block gives the call up, if it has not ended."""
        stream = self.begin(method.service, method.name, None)
        try:
            yield Conversation(stream, method.response)
        finally:
            self.end(stream)

    def begin(self, service: str, name: str, timeout: float | None = None) -> CallStream:
        """Begin a call in which bytes go both ways; :meth:`end` ends it.

        Raises:
            UnavailableError: the channel is not usable.
        """
        if not self.usable:
            raise self._session.lost_error()
        try:
            stream_id = self._session.connection.begin_request(self._said_first(service, name, timeout))
        except h2.exceptions.ProtocolError as exc:
            raise UnavailableError("the connection takes no further call; too many are open") from exc
        return self._session.open_stream(stream_id)

    def end(self, stream: CallStream) -> None:
        """The call is over here: given up (RST_STREAM), if it has not ended. Never waits."""
        stream.cancel()
        self._session.forget(stream)

    def _said_first(self, service: str, name: str, timeout: float | None) -> Headers:
        known = self._headers.get((service, name)) if timeout is None else None
        if known is None:
            path = f"/{service}/{name}"
            known = request_headers(path, self._authority, metadata=self._metadata, timeout=timeout)
            if timeout is None:
                self._headers[service, name] = known
        return known


class Answers(Generic[Response]):
    """The answers to one call."""

    def __init__(self, stream: CallStream, response: type[Response]) -> None:
        self._stream = stream
        self._response = response

    async def receive(self) -> Response | None:
        """The next answer, or None after the last one of a call that ended with OK.

        Raises:
            RpcError: the call ended with another status, or the connection was lost.
        """
        parts = await self.receive_parts()
        return None if parts is None else self.decode(parts)

    def decode(self, parts: Parts) -> Response:
        """The answer that :meth:`receive_parts` gave.

        Raises:
            InternalError: it is none.
        """
        return decode(self._response, whole(parts))

    async def receive_parts(self, taker: Callable[[Parts], bool] | None = None) -> Parts | None:
        """As :meth:`receive`, in the form that it came in over the wire.

        Args:
            taker: as for :meth:`api.rpc.call_stream.CallStream.receive_parts`.
        """
        return await self._stream.receive_parts(taker)

    async def receive_end(self) -> None:
        """Wait for the status.

        Raises:
            RpcError: as for :meth:`receive`; InternalError when there is a further answer instead.
        """
        if await self._stream.receive_message() is not None:
            raise InternalError("the server sent more than one answer")


class Conversation(Answers[Response], Generic[Request, Response]):
    """A call in which both sides speak."""

    async def send(self, request: Request) -> None:
        """Send a request; one task at a time. A cancelled send may have sent a part of it, and then the call is good
        for nothing but to be given up.

        Raises:
            RpcError: the call has ended, or the connection was lost.
        """
        await self._stream.send_message(encode_request(request))

    def end(self) -> None:
        """Send no more; the server may go on. Never waits."""
        self._stream.end_request()


@asynccontextmanager
async def open_channel(
    host: str,
    port: int,
    context: ssl.SSLContext,
    *,
    timeout: float = CONNECT_TIMEOUT,
    trace: TraceContext | None = None,
    server_name: str = "",
    windows: Windows = USUAL,
) -> AsyncIterator[Channel]:
    """Connect to a server over TLS; the block is the life of the connection.

    Args:
        server_name: whom its certificate has to name; the host, when "".
        windows: how much it may send before it was taken.
        trace: the trace that its calls are made in.

    Raises:
        UnavailableError: nobody answers there in time, or it is not a server of this kind.
        UnauthenticatedError: one side refused the other's certificate; the message says which and why.
    """
    transport = await connect(host, port, context, timeout, server_name or host)
    said = metadata_of(trace) if trace else ()
    async with channel_over(transport, f"{host}:{port}", said, windows=windows) as channel:
        yield channel


@asynccontextmanager
async def channel_over(
    transport: ByteTransport,
    authority: str,
    metadata: Metadata = (),
    *,
    windows: Windows = USUAL,
    keepalive: float = KEEPALIVE,
    when_idle: bool = True,
) -> AsyncIterator[Channel]:
    """A channel over bytes, which are closed with it; the block is its life.

    Args:
        authority: the name that the server is called by.
        keepalive: seconds, as KEEPALIVE.
        when_idle: PINGs are sent while there is no call, too; grpc-go's servers end connections that do so often.
    """
    session = Session(transport, client_side=True, windows=windows)
    try:
        async with background_nursery() as nursery:
            session.start()
            nursery.start_soon(_read, session)
            nursery.start_soon(session.flusher)
            nursery.start_soon(_keepalive, session, keepalive, when_idle)
            yield Channel(session, authority, metadata)
    finally:
        session.lose("the connection was closed here")
        with trio.CancelScope(shield=True):
            await transport.aclose()


async def _read(session: Session) -> None:
    try:
        await session.read()
        session.lose("the server closed the connection")
    except CONNECTION_ERRORS as exc:
        if isinstance(exc.__cause__, ssl.SSLError) and alert_of(exc.__cause__):
            # With TLS 1.3 the server judges our certificate after our side of the handshake is done.
            refused = handshake_error(session.transport.peer, exc.__cause__)
            session.lose(refused.message, type(refused))
        else:
            session.lose("the connection to the server was lost")


async def _keepalive(session: Session, seconds: float, when_idle: bool) -> None:
    while True:
        await trio.sleep(seconds)
        if not when_idle and not session.streams:
            continue
        try:
            await session.ping(seconds)
        except trio.TooSlowError:
            session.lose("the server no longer answers")
        except CONNECTION_ERRORS:
            return  # the reader has met it too
