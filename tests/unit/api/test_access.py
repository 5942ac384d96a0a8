"""What becomes of a connection whose peer is not let in, or not any more. In memory and virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import h2.config
import h2.connection
import h2.events
import pytest
import trio
from h2.errors import ErrorCodes
from structlog.typing import EventDict
from trio.testing import MockClock

from api import methods
from api.errors import Code, RpcError, UnauthenticatedError, UnavailableError
from api.messages import AttachRequest, Output, QueryRequest, QueryResponse, StreamRequest, StreamResponse
from api.rpc.access import LINGER, Access, Refusal
from api.rpc.server import Handler, ServerCall, router, serve_connection, server_stream, stack, unary
from jobd.middleware.audit import audit
from jobd.middleware.outcomes import observed
from jobd.service.errors import translate_errors
from tests.support.rig import Rig, answer, rig
from tests.support.transport import MemoryTransport

GONE = Refusal("GONE", "you are not known here any more")


async def let_in(call: ServerCall, proceed: Handler) -> None:
    """What authentication does."""
    if call.refusal:
        raise call.refusal.error()
    await proceed(call)


async def stream(call: ServerCall, request: StreamRequest) -> None:
    await call.send(StreamResponse(output=Output(b"x")))
    await trio.sleep_forever()


async def quiet(call: ServerCall, request: QueryRequest) -> QueryResponse:
    await trio.sleep_forever()
    raise AssertionError


async def attach(call: ServerCall) -> None:
    while await call.receive_next() is not None:
        pass


HANDLER = stack(
    [observed([audit]), let_in, translate_errors],
    router(
        {
            methods.QUERY.path: unary(answer),
            methods.WAIT.path: unary(quiet),
            methods.STREAM.path: server_stream(stream),
            methods.ATTACH.path: attach,
        }
    ),
)


@asynccontextmanager
async def connection(access: Access) -> AsyncIterator[Rig]:
    async with rig(HANDLER, access=access) as made:
        yield made


async def failure_of(connection: Rig) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await connection.channel.unary(methods.QUERY, QueryRequest())
    return caught.value


def statuses(log: list[EventDict]) -> list[tuple[str, str | None]]:
    """Status and reason of each call in the audit."""
    return [(line["status"], line["reason"]) for line in log if line["event"] == "call"]


async def test_open_calls_of_every_kind_end_at_once(log_guard: list[EventDict]) -> None:
    """A unary one, one that streams and one in which both sides speak, with the reason; and the audit has it."""
    access = Access()
    async with (
        connection(access) as r,
        r.channel.call(methods.WAIT, methods.WAIT.request()) as waits,
        r.channel.call(methods.STREAM, StreamRequest()) as streams,
        r.channel.converse(methods.ATTACH) as attached,
    ):
        await attached.send(AttachRequest())
        assert await streams.receive()
        await trio.testing.wait_all_tasks_blocked()
        access.refuse(GONE)
        for answers in (waits, streams, attached):
            with pytest.raises(UnauthenticatedError) as caught:
                await answers.receive()  # type: ignore[attr-defined] # they all have it
            assert (caught.value.reason, caught.value.message) == (GONE.reason, GONE.message)
    assert statuses(log_guard) == [("UNAUTHENTICATED", "GONE")] * 3


async def test_a_reader_that_has_stopped_is_ended_too() -> None:
    """What is unsent holds nobody up, nor the end of the connection."""
    access = Access()
    async with connection(access) as r, r.channel.call(methods.STREAM, StreamRequest()) as streams:
        assert await streams.receive()
        r.server.flow(flowing=False)
        access.refuse(GONE)
        await trio.testing.wait_all_tasks_blocked()
        r.server.flow(flowing=True)
        with pytest.raises(UnauthenticatedError):
            await streams.receive()


async def test_later_calls_are_told_the_same_for_a_while(autojump_clock: MockClock) -> None:
    """Then the connection is closed; one that begins without access goes the same way."""
    for access in (Access(), Access(GONE)):
        async with connection(access) as r:
            if not access.refusal:
                await r.channel.unary(methods.QUERY, QueryRequest())
            access.refuse(GONE)
            begun = trio.current_time()
            for _ in range(3):
                error = await failure_of(r)
                assert (error.code, error.reason) == (Code.UNAUTHENTICATED, "GONE")
            await r.channel.lost()
            assert trio.current_time() - begun == LINGER
            assert not r.channel.usable
            assert r.server.closed
            assert isinstance(await failure_of(r), UnavailableError)


async def test_who_is_dismissed_is_gone_at_once(autojump_clock: MockClock) -> None:
    """While the connection lingers, or before it is served."""
    for begun in (True, False):
        access = Access(GONE)
        if not begun:
            access.dismiss()
        async with connection(access) as r:
            if begun:
                await failure_of(r)
                access.dismiss()
            await r.channel.lost()
            assert r.server.closed
    assert trio.current_time() == 0


async def test_the_first_refusal_stays() -> None:
    """Whoever is gone for one reason is not told of the next."""
    access = Access()
    async with connection(access) as r:
        access.refuse(GONE)
        access.refuse(Refusal("OTHER", "another reason"))
        assert (await failure_of(r)).reason == "GONE"


async def test_a_connection_that_has_ended_is_not_told() -> None:
    """Nobody is there to be."""
    access = Access()
    async with connection(access) as r:
        await r.channel.unary(methods.QUERY, QueryRequest())
    access.refuse(GONE)
    assert access.on_refused is None


async def test_who_is_let_in_notices_nothing(autojump_clock: MockClock) -> None:
    """A connection that is quiet for long stays."""
    async with connection(Access()) as r:
        await trio.sleep(100 * LINGER)
        await r.channel.unary(methods.QUERY, QueryRequest())


async def test_a_refused_peer_that_breaks_the_protocol_is_gone_at_once() -> None:
    """As any other: its connection ends, without an error."""
    async with connection(Access(GONE)) as r:
        r.client.write([b"\0" * 100])
        await r.channel.lost()
        assert r.server.closed


async def test_goodbye_is_said(autojump_clock: MockClock) -> None:
    """GOAWAY without an error, so that a client that has something to call connects anew, and is judged anew."""
    server, client = MemoryTransport.pair()
    caller = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    caller.initiate_connection()
    client.write((caller.data_to_send(),))
    goodbyes = []
    async with trio.open_nursery() as nursery:
        serving = partial(serve_connection, server, HANDLER, draining=trio.Event(), keepalive=1000)
        nursery.start_soon(partial(serving, access=Access(GONE)))
        while data := await client.receive():
            events = caller.receive_data(data)
            goodbyes += [event for event in events if isinstance(event, h2.events.ConnectionTerminated)]
    assert [event.error_code for event in goodbyes] == [ErrorCodes.NO_ERROR]
