"""A server and a client of the RPC path, over memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from api import methods
from api.messages import Job, Output, QueryRequest, QueryResponse, StreamRequest, StreamResponse
from api.rpc.access import Access
from api.rpc.channel import Channel
from api.rpc.server import Handler, ServerCall, router, serve_connection, unary
from api.rpc.session import Session
from tests.support.transport import MemoryTransport

Unary = Callable[[ServerCall, QueryRequest], Awaitable[QueryResponse]]
KEEPALIVE = 1000.0


class Rig:
    """A server and a client over memory."""

    def __init__(self, server: MemoryTransport, client: MemoryTransport, session: Session) -> None:
        self.server, self.client, self.session = server, client, session
        self.channel = Channel(session, "test")
        self.draining = trio.Event()


@asynccontextmanager
async def rig(handler: Handler, *, keepalive: float = KEEPALIVE, access: Access | None = None) -> AsyncIterator[Rig]:
    from api.rpc.channel import _read

    server, client = MemoryTransport.pair()
    made = Rig(server, client, Session(client, client_side=True))
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await serve_connection(server, handler, draining=made.draining, keepalive=keepalive, access=access)

        nursery.start_soon(serve)
        made.session.start()
        nursery.start_soon(_read, made.session)
        nursery.start_soon(made.session.flusher)
        yield made
        nursery.cancel_scope.cancel()


def query(function: Unary) -> Handler:
    return router({methods.QUERY.path: unary(function)})


async def answer(call: ServerCall, request: QueryRequest) -> QueryResponse:
    return QueryResponse(Job(id=request.job_id))


async def for_ever(call: ServerCall, request: QueryRequest) -> QueryResponse:
    await trio.sleep_forever()
    raise AssertionError


async def big_stream(call: ServerCall, request: StreamRequest) -> None:
    while True:
        await call.send(StreamResponse(output=Output(bytes(100_000))))
