"""What a principal may ask for at a time, over all its connections; real calls, in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio

from api import methods
from api.errors import ResourceExhaustedError, UnimplementedError
from api.identity import Principal, Role
from api.messages import (
    HealthCheckRequest,
    HealthCheckResponse,
    QueryRequest,
    QueryResponse,
    StreamRequest,
    StreamResponse,
    WaitRequest,
    WaitResponse,
)
from api.methods import AnyMethod, Method
from api.rpc.channel import Channel, _read
from api.rpc.server import Handler, ServerCall, router, serve_connection, server_stream, stack, unary
from api.rpc.session import Session
from jobd.middleware.quotas import FEW, STREAMS, Quotas
from jobd.middleware.token_bucket import BURST
from jobd.quota import DEFAULT, UNLIMITED, Quota, QuotaPolicy
from jobd.worker.policy import Caller
from tests.support.transport import MemoryTransport


async def answer(call: ServerCall, request: QueryRequest) -> QueryResponse:
    return QueryResponse()


async def wait(call: ServerCall, request: WaitRequest) -> WaitResponse:
    await trio.sleep_forever()
    raise AssertionError


async def stream(call: ServerCall, request: StreamRequest) -> None:
    await call.send(StreamResponse())
    await trio.sleep_forever()


async def watch(call: ServerCall, request: HealthCheckRequest) -> None:
    await call.send(HealthCheckResponse())
    await trio.sleep_forever()


async def converse(call: ServerCall) -> None:
    await call.receive_next()
    await trio.sleep_forever()


ROUTES = router(
    {
        methods.QUERY.path: unary(answer),
        methods.WAIT.path: unary(wait),
        methods.STREAM.path: server_stream(stream),
        methods.WATCH.path: server_stream(watch),
        methods.ATTACH.path: converse,
        methods.REFLECT.path: converse,
        methods.REFLECT_ALPHA.path: converse,
    }
)


class Server:
    """A server in memory, behind quotas; its time is the test's."""

    def __init__(self, policy: QuotaPolicy) -> None:
        self.now = 1000.0
        self.quotas = Quotas(policy, lambda: self.now)

    @asynccontextmanager
    async def connect(self, name: str, roles: Sequence[Role] = (Role.WRITER,)) -> AsyncIterator[Channel]:
        """A connection of this principal."""

        async def authenticate(call: ServerCall, proceed: Handler) -> None:
            call.principal = Principal(name, frozenset(roles), "1")
            await proceed(call)

        server, client = MemoryTransport.pair()
        session = Session(client, client_side=True)
        handler = stack([authenticate, self.quotas.middleware], ROUTES)
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                await serve_connection(server, handler, draining=trio.Event(), keepalive=1000)

            nursery.start_soon(serve)
            session.start()
            nursery.start_soon(_read, session)
            nursery.start_soon(session.flusher)
            yield Channel(session, "test")
            nursery.cancel_scope.cancel()


def everyone(**quota: float) -> QuotaPolicy:
    return QuotaPolicy(Quota(**quota))


async def query(channel: Channel) -> None:
    await channel.unary(methods.QUERY, QueryRequest())


async def test_calls_beyond_the_rate_are_refused_until_the_time_that_is_told() -> None:
    """RESOURCE_EXHAUSTED, with the reason, the rate, and when to try again; then it is let through."""
    server = Server(everyone(calls_per_second=2))
    async with server.connect("alice") as channel:
        await query(channel)
        await query(channel)
        with pytest.raises(
            ResourceExhaustedError, match=r"alice may make 2 calls a second; try again in 0\.5 s"
        ) as caught:
            await query(channel)
        assert (caught.value.reason, caught.value.metadata) == ("TOO_MANY_CALLS", {"callsPerSecond": "2"})
        assert caught.value.retry_after == pytest.approx(0.5)
        server.now += caught.value.retry_after or 0
        await query(channel)
    assert server.quotas.refused == {"TOO_MANY_CALLS": 1}


async def test_all_connections_of_a_principal_count_together_and_nobody_else_s() -> None:
    """A second connection is no second quota; a neighbour does not notice."""
    server = Server(everyone(calls_per_second=1))
    async with server.connect("alice") as one, server.connect("alice") as two, server.connect("bob") as other:
        await query(one)
        with pytest.raises(ResourceExhaustedError):
            await query(two)
        await query(other)


async def test_a_method_that_is_not_there_is_a_call_too() -> None:
    """Or a reader could ask for nothing, without end."""
    nothing: Method[Any, Any] = Method("x", "Y", QueryRequest, QueryResponse, methods.QUERY.cardinality, Role.READER)
    server = Server(everyone(calls_per_second=1))
    async with server.connect("alice") as channel:
        with pytest.raises(UnimplementedError):
            await channel.unary(nothing, QueryRequest())
        with pytest.raises(ResourceExhaustedError):
            await channel.unary(nothing, QueryRequest())


async def begin(channel: Channel, method: AnyMethod, open_: AsyncExitStack, nursery: trio.Nursery) -> None:
    """A call that lasts."""
    if method.path == methods.WAIT.path:
        scope = trio.CancelScope()
        open_.callback(scope.cancel)

        async def waiting() -> None:
            with scope:
                await channel.unary(methods.WAIT, WaitRequest())

        nursery.start_soon(waiting)
    elif method.cardinality is methods.Cardinality.STREAM_STREAM:
        conversation = await open_.enter_async_context(channel.converse(method))
        await conversation.send(method.request())
    else:
        answers = await open_.enter_async_context(channel.call(method, method.request()))
        await answers.receive()
    await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("method", [m for m in methods.METHODS if m.path in STREAMS], ids=lambda m: m.path)
async def test_open_streams_are_counted_over_all_connections_and_given_back(method: AnyMethod) -> None:
    """Stream, Attach, Wait and Watch alike; a refusal says so at once, and what ends makes room."""
    server = Server(everyone(streams=2))
    async with trio.open_nursery() as nursery, server.connect("alice") as one, server.connect("alice") as two:
        async with AsyncExitStack() as open_:
            for channel in (one, two):
                await begin(channel, method, open_, nursery)
            with pytest.raises(ResourceExhaustedError, match="at most 2 streams of alice may be open") as caught:
                await two.unary(methods.WAIT, WaitRequest())
            assert (caught.value.reason, caught.value.retry_after) == ("TOO_MANY_STREAMS", None)
            assert caught.value.metadata == {"streams": "2"}
            await query(one)
        await trio.testing.wait_all_tasks_blocked()
        async with AsyncExitStack() as open_:
            for channel in (one, two):
                await begin(channel, method, open_, nursery)
    assert server.quotas.refused == {"TOO_MANY_STREAMS": 1}


async def test_a_lost_connection_gives_its_streams_back() -> None:
    """Nothing of it is left."""
    server = Server(everyone(streams=1))
    for _ in range(2):
        async with server.connect("alice") as channel, channel.call(methods.WATCH, HealthCheckRequest()) as answers:
            await answers.receive()


async def test_principals_that_are_idle_are_forgotten() -> None:
    """What is remembered is bounded by who was there lately; who has a stream open, or has used up its calls, stays."""
    server = Server(everyone(calls_per_second=1))
    async with server.connect("alice") as alice, alice.call(methods.WATCH, HealthCheckRequest()) as answers:
        await answers.receive()
        for number in range(10 * FEW):
            server.now += BURST
            async with server.connect(f"p{number}") as channel:
                await query(channel)
            assert server.quotas.principals <= 2 * FEW
        for number in range(3 * FEW):  # all in the same second: none of them may be forgotten
            async with server.connect(f"q{number}") as channel:
                await query(channel)
        async with server.connect("q0") as channel:
            with pytest.raises(ResourceExhaustedError):
                await query(channel)
        assert "alice" in server.quotas._usages
        with server.quotas.connection(None) as welcome:  # whoever has no name counts as one
            assert welcome
            for number in range(10 * FEW):
                server.now += BURST
                server.quotas._usage(f"r{number}", server.now)
            assert server.quotas._usages[""].connections == 1


def test_a_quota_is_the_principal_s_or_its_role_s_or_everyone_s() -> None:
    """What one does not speak of is as in the next; nobody is without one."""
    policy = QuotaPolicy(
        Quota(calls_per_second=10),
        {"alice": Quota(jobs=UNLIMITED)},
        {"writer": Quota(calls_per_second=20, jobs=7), "reader": Quota(calls_per_second=5)},
    )
    assert policy.of(Caller("alice", ["writer"])) == Quota(20, DEFAULT.streams, UNLIMITED, DEFAULT.connections)
    assert policy.of(Caller("bob", ["writer", "reader"])) == Quota(20, DEFAULT.streams, 7, DEFAULT.connections)
    assert policy.of(Caller("rita", ["reader"])) == Quota(5, DEFAULT.streams, DEFAULT.jobs, DEFAULT.connections)
    assert policy.of(Caller("eve", [])) == Quota(10, DEFAULT.streams, DEFAULT.jobs, DEFAULT.connections)
    assert QuotaPolicy().of(Caller("eve", [])) == DEFAULT
