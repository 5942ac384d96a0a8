"""The client's side of a connection: connect, call, follow; every call ends, whatever the server does."""

from __future__ import annotations

import datetime
import math
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Generic

import h2.exceptions
import trio

from api.background import background_nursery
from api.errors import DeadlineExceededError, InternalError, RpcError, UnauthenticatedError, UnavailableError
from api.methods import Method, Request, Response
from api.rpc.call_stream import CallStream
from api.rpc.codec import Buffer, decode, encode
from api.rpc.connection import USUAL, Windows
from api.rpc.session import CONNECTION_ERRORS, Session
from api.rpc.stream import RECEIVE, ByteTransport, TLSStream
from api.trace import TraceContext, metadata_of

RECEIVE_SIZE: Final = RECEIVE
CONNECT_TIMEOUT: Final = 10.0
"""Seconds for TCP, TLS and the server's settings together."""
KEEPALIVE: Final = 20.0
"""Seconds between PINGs, and until an unanswered one means that the connection is lost."""

Metadata = tuple[tuple[str, str], ...]


class Channel:
    """An open connection to a server. Made by :func:`open_channel`."""

    def __init__(self, session: Session, authority: str, metadata: Metadata = ()) -> None:
        self._session = session
        self._metadata = metadata
        self._authority = authority

    def saying(self, metadata: Metadata) -> Channel:
        """The same connection, for calls that say something else beside their messages."""
        return Channel(self._session, self._authority, metadata)

    @property
    def usable(self) -> bool:
        """New calls can be made on this channel."""
        return not self._session.going_away

    async def lost(self) -> None:
        """Return when the connection can carry no call any more, and none is open."""
        await self._session.over.wait()

    async def unary(
        self, method: Method[Request, Response], request: Request, *, timeout: float | None = None
    ) -> Response:
        """Make a call with one answer.

        Args:
            timeout: seconds; also told to the server.

        Raises:
            RpcError: the call ended with a status other than OK, or the connection was lost (UnavailableError).
        """
        async with self.call(method, request, timeout=timeout) as answers:
            answer = await answers.receive()
            if answer is None:
                raise InternalError(f"the server answered {method.path} with OK and no message")
            await answers.receive_end()
            return answer

    @asynccontextmanager
    async def call(
        self, method: Method[Request, Response], request: Request, *, timeout: float | None = None
    ) -> AsyncIterator[Answers[Response]]:
        """Make a call and read its answers. Leaving the block early gives the call up (RST_STREAM).

        Raises:
            DeadlineExceededError: the timeout passed before the block was left.
            RpcError: as for :meth:`unary`.
        """
        stream = self._begin(method.service, method.name, timeout)
        try:
            if timeout is None:
                # No cancel scope: a stream is entered in one scope of its user's and left in another.
                await stream.send_message(encode(request), end_stream=True)
                yield Answers(stream, method.response)
                return
            with trio.move_on_after(timeout) as scope:
                await stream.send_message(encode(request), end_stream=True)
                yield Answers(stream, method.response)
            if scope.cancelled_caught:
                raise DeadlineExceededError(f"{method.path} gave no answer within {timeout:g} s")
        finally:
            stream.cancel()
            self._session.forget(stream)

    @asynccontextmanager
    async def converse(self, method: Method[Request, Response]) -> AsyncIterator[Conversation[Request, Response]]:
        """Make a call in which both sides speak. Leaving the block gives the call up, if it has not ended."""
        stream = self._begin(method.service, method.name, None)
        try:
            yield Conversation(stream, method.response)
        finally:
            stream.cancel()
            self._session.forget(stream)

    def _begin(self, service: str, name: str, timeout: float | None) -> CallStream:
        if not self.usable:
            raise self._session.lost_error()
        connection = self._session.connection
        try:
            stream_id = connection.get_next_available_stream_id()
            connection.start_request(
                stream_id,
                "https",
                service,
                name,
                authority=self._authority,
                timeout=None if timeout is None else _wire_timeout(timeout),
                content_type_suffix="+proto",
                custom_metadata=self._metadata,
            )
        except h2.exceptions.ProtocolError as exc:
            raise UnavailableError("the connection takes no further call; too many are open") from exc
        return self._session.open_stream(stream_id)


def _wire_timeout(timeout: float) -> datetime.timedelta:
    """A timeout that purerpc, which counts in seconds or microseconds, writes in the eight digits that gRPC allows."""
    seconds = min(max(timeout, 0.0), 99_999_999.0)
    return datetime.timedelta(seconds=math.ceil(seconds) if seconds > 99 else seconds)


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
        data = await self.receive_bytes()
        return None if data is None else decode(self._response, data)

    async def receive_bytes(self) -> Buffer | None:
        """As :meth:`receive`, in the form that it came in over the wire."""
        return await self._stream.receive_message()

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
        await self._stream.send_message(encode(request))

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
    transport = await _connect(host, port, context, timeout, server_name or host)
    session = Session(transport, client_side=True, windows=windows)
    try:
        async with background_nursery() as nursery:
            session.start()
            nursery.start_soon(_read, session)
            nursery.start_soon(session.flusher)
            nursery.start_soon(_keepalive, session)
            yield Channel(session, f"{host}:{port}", metadata_of(trace) if trace else ())
    finally:
        session.lose("the connection was closed here")
        with trio.CancelScope(shield=True):
            await transport.aclose()


async def _connect(host: str, port: int, context: ssl.SSLContext, timeout: float, name: str) -> ByteTransport:
    where = f"{host}:{port}"
    with trio.move_on_after(timeout):
        try:
            tcp = await trio.open_tcp_stream(host, port)
        except OSError as exc:
            raise UnavailableError(f"nobody answers at {where}: {_plain(exc)}; is jobd running there?") from exc
        sock = socket.socket(fileno=tcp.socket.detach())
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            stream = await TLSStream.handshake(
                sock, context, server_side=False, server_hostname=name, receive_size=RECEIVE_SIZE
            )
        except (ssl.SSLError, OSError) as exc:
            raise _handshake_error(where, exc) from exc
        if stream.alpn_protocol != "h2":
            await stream.aclose()
            raise UnavailableError(f"the server at {where} does not speak HTTP/2; is it a jobd?")
        return stream
    raise UnavailableError(f"no answer from {where} within {timeout:g} s")


def _plain(exc: OSError) -> str:
    errors = exc.__cause__.exceptions if isinstance(exc.__cause__, BaseExceptionGroup) else [exc]
    return "; ".join(sorted({_without_address(each) for each in errors}))


def _without_address(exc: BaseException) -> str:
    """What the system says (trio puts the address in front of it)."""
    errno = exc.errno if isinstance(exc, OSError) else None
    return os.strerror(errno) if errno and errno > 0 else str(exc)


def _handshake_error(where: str, exc: Exception) -> RpcError:
    """What went wrong in a TLS handshake, or right after it, in words."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return UnauthenticatedError(
            f"the certificate of the server at {where} was refused: {exc.verify_message}; "
            "check --ca, and that the certificate was made for this host name"
        )
    alert = _alert(exc)
    if alert in _CERTIFICATE_ALERTS:
        return UnauthenticatedError(
            f"the server at {where} refused this client's certificate: {_CERTIFICATE_ALERTS[alert]}"
        )
    if isinstance(exc, ssl.SSLEOFError) or not isinstance(exc, ssl.SSLError):
        return UnavailableError(f"the connection to {where} was closed during the TLS handshake")
    return UnavailableError(f"the server at {where} does not speak TLS 1.3 as this client does; is it a jobd?")


def _alert(exc: BaseException | None) -> str:
    """The name of the TLS alert that the peer sent, "" when it sent none."""
    # An SSLError that was not made by OpenSSL has no reason (and no such attribute).
    _, alert, name = (getattr(exc, "reason", None) or "").partition("_ALERT_")
    return name if alert else ""


_CERTIFICATE_ALERTS: Final = {
    "CERTIFICATE_REQUIRED": "it asks for one; give --cert and --key",
    "CERTIFICATE_EXPIRED": "it has expired; have a new one signed",
    "CERTIFICATE_REVOKED": "it was revoked",
    "CERTIFICATE_UNKNOWN": "it was not accepted; check its profile and validity",
    "UNKNOWN_CA": "it is not signed by the CA that the server trusts",
    "UNSUPPORTED_CERTIFICATE": "it was not made for a client; have one signed with the client profile",
    "BAD_CERTIFICATE": "it was not accepted; check its profile and validity",
    "ACCESS_DENIED": "it gives no access",
}


async def _read(session: Session) -> None:
    try:
        await session.read()
        session.lose("the server closed the connection")
    except CONNECTION_ERRORS as exc:
        if isinstance(exc.__cause__, ssl.SSLError) and _alert(exc.__cause__):
            # With TLS 1.3 the server judges our certificate after our side of the handshake is done.
            refused = _handshake_error(session.transport.peer, exc.__cause__)
            session.lose(refused.message, type(refused))
        else:
            session.lose("the connection to the server was lost")


async def _keepalive(session: Session) -> None:
    while True:
        await trio.sleep(KEEPALIVE)
        try:
            await session.ping(KEEPALIVE)
        except trio.TooSlowError:
            session.lose("the server no longer answers")
        except CONNECTION_ERRORS:
            return  # the reader has met it too
