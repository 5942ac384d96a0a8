"""The server's side of a connection: from its preface to its end.

Accepting connections and shaking hands is ``jobd.transport``'s; who may call is ``jobd.middleware``'s; the calls on the
connection are ``api.rpc.calls``'s.
"""

from __future__ import annotations

from typing import Any, Final

import structlog
import trio
from h2.errors import ErrorCodes

from api.rpc.access import Access
from api.rpc.call import ServerCall
from api.rpc.calls import Calls
from api.rpc.handlers import Handler, Middleware, at_once, router, server_stream, stack, unary, unknown_method
from api.rpc.session import CONNECTION_ERRORS, Session
from api.rpc.statistics import Connections
from api.rpc.stream import ByteTransport

__all__ = [
    "Handler",
    "Middleware",
    "ServerCall",
    "at_once",
    "router",
    "serve_connection",
    "server_stream",
    "stack",
    "turn_away",
    "unary",
    "unknown_method",
]

log = structlog.get_logger(__name__)

LAST_WORDS: Final = 0.25
"""Seconds that a client has to hear that its connection is not taken, or ends, and to close it itself."""


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
            calls = Calls(nursery, session, handler)
            _heed(session, nursery.cancel_scope)
            nursery.start_soon(session.flusher)
            nursery.start_soon(_keepalive, session, keepalive)
            nursery.start_soon(_drain_when, draining, session, calls, nursery.cancel_scope)
            with connections.count(session):
                await session.read(calls)
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


async def _keepalive(session: Session, interval: float) -> None:
    while True:
        await trio.sleep(interval)
        try:
            await session.ping(interval)
        except trio.TooSlowError as exc:
            raise trio.BrokenResourceError("the peer did not answer a PING") from exc


async def _drain_when(draining: trio.Event, session: Session, calls: Calls, connection: trio.CancelScope) -> None:
    await draining.wait()
    session.connection.send_goaway()
    session.flush()
    await calls.ended()
    session.flush()
    await session.transport.drain()
    # Let the client close first: one that meets the end of the connection beside the end of its call may take the first
    # for the second, and what it says into a closed socket takes away what it had yet to read.
    await trio.sleep(LAST_WORDS)
    connection.cancel()
