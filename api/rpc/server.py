"""The server's side of a connection: dispatch, deadlines, cancellation, and the end of every call.

Accepting connections and shaking hands is ``jobd.transport``'s; who may call is ``jobd.middleware``'s. Here a
request becomes a :class:`ServerCall` in a task of its own, and whatever its handler does, the call ends in one of
the ways that gRPC names.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import betterproto
import structlog
import trio
from h2.errors import ErrorCodes

from api.errors import DeadlineExceededError, InternalError, RpcError, UnimplementedError
from api.identity import Principal
from api.methods import BY_PATH, AnyMethod
from api.rpc.access import Access, Refusal
from api.rpc.call_stream import CallStream
from api.rpc.codec import WireMessage, decode, encode
from api.rpc.events import RequestReceived
from api.rpc.session import CONNECTION_ERRORS, Session
from api.rpc.statistics import Connections
from api.rpc.stream import ByteTransport
from api.trace import trace_of

log = structlog.get_logger(__name__)

MAX_DEADLINE: Final = 10 * 365 * 86400.0
"""Seconds; a longer grpc-timeout is taken as this (the standard allows 10^8 hours)."""

LAST_WORDS: Final = 0.25
"""Seconds that a client has to hear that its connection is not taken."""


class ServerCall:
    """One call, as middleware and handlers see it.

    Attributes:
        path: the ``:path`` asked for.
        method: what the table of methods has for it, or None.
        peer: ``host:port`` of the caller.
        peer_certificate: the caller's verified certificate (DER), if there is one.
        metadata: what the caller said beside the message; only what a peer may say itself.
        principal: who calls, once authentication has found out; or for whom.
        broker: who calls for the principal, if that is somebody else.
        job_id: the job that the call is about, once the handler knows.
        trace: the trace that the caller makes it in, if that was said.
        standing: how far the call came, for whoever has to take it up again: told if the server ends it.
    """

    def __init__(self, stream: CallStream, session: Session, request: RequestReceived) -> None:
        self._stream = stream
        self._session = session
        self.path: str = request.path
        self.method: AnyMethod | None = BY_PATH.get(self.path)
        self.peer = session.transport.peer
        self.peer_certificate = session.peer_certificate
        self.metadata: Sequence[tuple[str, str | bytes]] = request.custom_metadata
        self.principal: Principal | None = None
        self.broker: Principal | None = None
        self.job_id = ""
        self.trace = trace_of(request.custom_metadata) if request.custom_metadata else None
        self.standing: dict[str, str] = {}
        self.response_started = False
        self.answered = False  # whole, to its status
        self.timeout: float | None = (
            None if request.timeout is None else min(request.timeout.total_seconds(), MAX_DEADLINE)
        )
        self.deadline = None if self.timeout is None else trio.current_time() + self.timeout

    @property
    def expired(self) -> bool:
        """The caller's deadline has passed."""
        return self.deadline is not None and trio.current_time() >= self.deadline

    @property
    def refusal(self) -> Refusal | None:
        """Why the caller is not let in, or not any more."""
        return self._session.access.refusal

    async def receive(self) -> betterproto.Message:
        """The request of a call that has exactly one.

        Raises:
            UnimplementedError: there was none, or more than one (gRPC's statuscodes.md: cardinality violation).
            RpcError: the message was too large or malformed, or the caller gave up.
        """
        assert self.method is not None
        data = await self._stream.receive_message()
        if data is None or await self._stream.receive_message() is not None:
            raise UnimplementedError(f"{self.path} takes exactly one request message")
        return decode(self.method.request, data)

    async def receive_next(self) -> betterproto.Message | None:
        """The next request of a call that has many, or None after the last.

        Raises:
            RpcError: the message was too large or malformed, or the caller gave up.
        """
        assert self.method is not None
        data = await self._stream.receive_message()
        return None if data is None else decode(self.method.request, data)

    def start_response(self) -> None:
        """Send the response's headers now, so that the caller knows that it was heard. Never waits.

        Raises:
            CancelledError: the caller gave the call up.
            UnavailableError: the connection is lost.
        """
        if not self.response_started:
            self._stream.start_response()
            self.response_started = True

    async def writable(self) -> int:
        """Wait until the caller accepts more: before that, there is no need to hold what will be sent.

        Returns:
            how many bytes it is worth to hold now, at most.
        """
        return await self._stream.writable()

    async def send(self, message: betterproto.Message | bytes) -> None:
        """Send a response message (or its wire form); waits until the kernel has taken it."""
        await self.send_all([encode(message)])

    async def send_all(self, messages: Sequence[WireMessage]) -> None:
        """Send several messages in their wire form, in one go."""
        self.start_response()
        await self._stream.send_messages(messages)

    async def answer(self, message: betterproto.Message) -> None:
        """Send the one response message of a call, and end the call."""
        data = encode(message)
        if self._stream.answer(data):
            self.answered = True
        else:
            await self.send_all([data])


Handler = Callable[[ServerCall], Awaitable[None]]
"""Answers a call: receives, sends, and returns when the call is done. Raises RpcError to end it with a status."""

Middleware = Callable[[ServerCall, Handler], Awaitable[None]]
"""Stands in front of a handler, the same way for unary and streaming calls."""


def stack(middleware: list[Middleware], handler: Handler) -> Handler:
    """The handler with the middleware in front of it, the first outermost."""
    for outer in reversed(middleware):
        handler = _around(outer, handler)
    return handler


def _around(outer: Middleware, inner: Handler) -> Handler:
    async def handle(call: ServerCall) -> None:
        await outer(call, inner)

    return handle


def unary(function: Callable[[ServerCall, Any], Awaitable[betterproto.Message]]) -> Handler:
    """The handler for a method with one response: ``await function(call, request)`` is sent."""

    async def handle(call: ServerCall) -> None:
        await call.answer(await function(call, await call.receive()))

    return handle


def server_stream(function: Callable[[ServerCall, Any], Awaitable[None]]) -> Handler:
    """The handler for a method with many responses: ``function(call, request)`` sends them itself."""

    async def handle(call: ServerCall) -> None:
        await function(call, await call.receive())

    return handle


def router(handlers: dict[str, Handler]) -> Handler:
    """The handler that calls the one registered for the call's path."""

    async def handle(call: ServerCall) -> None:
        handler = handlers.get(call.path)
        if handler is None:
            raise unknown_method(call.path)
        await handler(call)

    return handle


def unknown_method(path: str) -> UnimplementedError:
    """The answer to a path that names no method."""
    return UnimplementedError(f"there is no method {path[:256]!a} here", reason="UNKNOWN_METHOD")


async def serve_connection(
    transport: ByteTransport,
    handler: Handler,
    *,
    draining: trio.Event,
    keepalive: float,
    connections: Connections | None = None,
    access: Access | None = None,
) -> None:
    """Serve one connection until it ends. What the peer does wrong ends this connection only, without an error.

    Args:
        draining: when set, GOAWAY is sent, and the connection is closed once its open calls have ended.
        keepalive: seconds between PINGs; a peer that leaves one unanswered as long is taken for dead.
        connections: where it is counted.
        access: whether the peer is let in. One that is not lingers, so that its calls are told why.
    """
    connections = connections or Connections()
    session = Session(transport, client_side=False, share=connections.share, access=access)
    try:
        async with trio.open_nursery() as nursery:
            session.start()
            calls = _Calls(nursery, session, handler)
            _heed(session, nursery.cancel_scope)
            nursery.start_soon(session.flusher)
            nursery.start_soon(_keepalive, session, keepalive)
            nursery.start_soon(_drain_when, draining, session, calls, nursery.cancel_scope)
            with connections.count(session):
                await session.read(calls.begin)
            nursery.cancel_scope.cancel()
    except* CONNECTION_ERRORS as group:
        log.debug("connection ended", peer=transport.peer, error=_first(group))
    finally:
        session.access.on_refused = None
        if session.access.refusal:
            session.connection.send_goaway()
            session.flush()
        session.lose("the connection was lost")
        with trio.CancelScope(shield=True):
            await transport.aclose()


def _heed(session: Session, connection: trio.CancelScope) -> None:
    """See that a peer whose access is taken back, or who never had any, is gone soon, and its open calls at once."""

    def refused() -> None:
        connection.deadline = trio.current_time() + session.access.linger
        for stream in list(session.streams.values()):
            if stream.on_reset:
                stream.on_reset()

    session.access.on_refused = refused
    if session.access.refusal:
        refused()


async def turn_away(transport: ByteTransport) -> None:
    """End a connection before it is one: GOAWAY with ENHANCE_YOUR_CALM (RFC 9113, 6.8). No call of it is taken."""
    session = Session(transport, client_side=False)
    try:
        with trio.move_on_after(LAST_WORDS):
            session.start()
            session.connection.send_goaway(ErrorCodes.ENHANCE_YOUR_CALM)
            session.flush()
            while len(await transport.receive()):  # a socket that is closed over unread bytes takes the words with it
                pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # whoever was to hear them is gone
    finally:
        with trio.CancelScope(shield=True):
            await transport.aclose()


def _first(group: BaseExceptionGroup[Any]) -> str:
    error = group.exceptions[0]
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return repr(error.__cause__ or error)


class _Calls:
    """The calls that are open on one connection; each in its own task of the connection's nursery."""

    def __init__(self, nursery: trio.Nursery, session: Session, handler: Handler) -> None:
        self._nursery = nursery
        self._session = session
        self._handler = handler
        self.open = 0
        self.none_open = trio.Event()
        self.none_open.set()

    def begin(self, stream: CallStream, request: RequestReceived) -> None:
        if not self.open:
            self.none_open = trio.Event()
        self.open += 1
        self._nursery.start_soon(self._run, stream, request)

    async def _run(self, stream: CallStream, request: RequestReceived) -> None:
        try:
            await _serve_call(stream, ServerCall(stream, self._session, request), self._handler)
        finally:
            self._session.forget(stream)
            self.open -= 1
            if not self.open:
                self.none_open.set()


async def _serve_call(stream: CallStream, call: ServerCall, handler: Handler) -> None:
    """Run a handler under its deadline and the caller's will; end the call with what came of it."""
    error: RpcError | None = None
    with trio.CancelScope() as scope:
        stream.on_reset = scope.cancel
        if call.deadline is not None:
            scope.deadline = call.deadline
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            await handler(call)
        except RpcError as exc:
            error = exc
        except Exception as exc:  # noqa: BLE001 # the border: nothing a handler raises reaches a peer or a neighbour
            error = _incident(call, exc)
    if scope.cancelled_caught:
        error = _why_cut(call, scope)
        if error is None:
            return  # the caller has given up: nobody to tell
    if not call.answered:
        stream.end_response(error, response_started=call.response_started)


def _why_cut(call: ServerCall, scope: trio.CancelScope) -> RpcError | None:
    if call.refusal:
        return call.refusal.error()
    if call.timeout is not None and trio.current_time() >= scope.deadline:
        return DeadlineExceededError(f"{call.path} was not done within the {call.timeout:g} s that the caller gave")
    return None


def _incident(call: ServerCall, exc: Exception) -> InternalError:
    incident = uuid.uuid4().hex[:12]
    log.error("a handler failed", path=call.path, peer=call.peer, incident=incident, exc_info=exc)
    return InternalError(
        f"the server failed in a way that it did not expect; its log has it as incident {incident}",
        reason="INCIDENT",
        metadata={"incident": incident},
    )


async def _keepalive(session: Session, interval: float) -> None:
    while True:
        await trio.sleep(interval)
        try:
            await session.ping(interval)
        except trio.TooSlowError as exc:
            raise trio.BrokenResourceError("the peer did not answer a PING") from exc


async def _drain_when(draining: trio.Event, session: Session, calls: _Calls, connection: trio.CancelScope) -> None:
    await draining.wait()
    session.connection.send_goaway()
    session.flush()
    while calls.open:
        await calls.none_open.wait()
    session.flush()
    await session.transport.drain()
    connection.cancel()
