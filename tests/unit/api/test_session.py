"""A connection in action: cancellation, deadlines, backpressure, and every call's end. In memory."""

from __future__ import annotations

from functools import partial

import h2.config
import h2.connection
import pytest
import trio
from structlog.typing import EventDict

from api import methods
from api.errors import (
    CancelledError,
    Code,
    DeadlineExceededError,
    InternalError,
    NotFoundError,
    PermissionDeniedError,
    RpcError,
    UnavailableError,
    UnimplementedError,
)
from api.messages import Job, Output, QueryRequest, QueryResponse, StreamRequest, StreamResponse
from api.rpc.server import LAST_WORDS, Handler, ServerCall, router, serve_connection, server_stream, stack, unary
from tests.support.rig import answer, big_stream, for_ever, query, rig
from tests.support.transport import MemoryTransport
from tests.support.wire import CALL


async def test_a_call_is_answered() -> None:
    """The message that was sent, and the one that comes back."""
    async with rig(query(answer)) as r:
        assert (await r.channel.unary(methods.QUERY, QueryRequest("x"))).job.id == "x"


async def test_many_calls_share_a_connection() -> None:
    """Each gets its own answer."""
    async with rig(query(answer)) as r:
        got: list[str] = []

        async def one(i: int) -> None:
            got.append((await r.channel.unary(methods.QUERY, QueryRequest(str(i)))).job.id)

        async with trio.open_nursery() as nursery:
            for i in range(200):
                nursery.start_soon(one, i)
        assert sorted(got) == sorted(map(str, range(200)))
        assert r.session.streams == {}


@pytest.mark.parametrize("error", [NotFoundError("gone", reason="R"), PermissionDeniedError("no")])
async def test_a_handler_s_rpc_error_is_the_caller_s(error: Exception) -> None:
    """With its class, its message and its reason; the connection goes on."""

    async def fail(call: ServerCall, request: QueryRequest) -> QueryResponse:
        if request.job_id:
            raise error
        return QueryResponse()

    async with rig(query(fail)) as r:
        with pytest.raises(type(error), match=str(error)):
            await r.channel.unary(methods.QUERY, QueryRequest("x"))
        await r.channel.unary(methods.QUERY, QueryRequest())


async def test_a_bug_in_a_handler_tells_the_peer_nothing(
    errors_expected: list[EventDict], log_guard: list[EventDict]
) -> None:
    """INTERNAL and the number of an incident; the exception is in the log under that number."""

    async def bug(call: ServerCall, request: QueryRequest) -> QueryResponse:
        raise ValueError("the secret is hunter2")

    async with rig(query(bug)) as r:
        with pytest.raises(InternalError) as caught:
            await r.channel.unary(methods.QUERY, QueryRequest("x"))
    assert "hunter2" not in caught.value.message
    [entry] = [entry for entry in log_guard if entry["log_level"] == "error"]
    assert caught.value.metadata["incident"] == entry["incident"]
    assert "hunter2" in str(entry["exc_info"])


async def test_an_unknown_method_is_unimplemented() -> None:
    """By the router, when authorization has let it through."""
    async with rig(router({})) as r:
        with pytest.raises(UnimplementedError):
            await r.channel.unary(methods.QUERY, QueryRequest())


async def test_a_caller_that_gives_up_ends_the_handler() -> None:
    """RST_STREAM is Cancelled in the handler's task."""
    begun, ended = trio.Event(), trio.Event()

    async def handler(call: ServerCall, request: QueryRequest) -> QueryResponse:
        begun.set()
        try:
            return await for_ever(call, request)
        finally:
            ended.set()

    async with rig(query(handler)) as r:
        async with trio.open_nursery() as calling:
            calling.start_soon(r.channel.unary, methods.QUERY, QueryRequest())
            await begun.wait()
            calling.cancel_scope.cancel()
        with trio.fail_after(5):
            await ended.wait()
        assert r.session.streams == {}


async def test_a_caller_that_gives_up_what_cannot_be_left_is_no_incident(log_guard: list[EventDict]) -> None:
    """A handler that answers nobody any more is told so; it is no error of ours, whose log anybody could fill."""
    begun, given_up = trio.Event(), trio.Event()
    raised: list[RpcError] = []

    async def handler(call: ServerCall, request: QueryRequest) -> QueryResponse:
        with trio.CancelScope(shield=True):
            begun.set()
            await given_up.wait()
        return QueryResponse()

    async def middleware(call: ServerCall, proceed: Handler) -> None:
        try:
            await proceed(call)
        except RpcError as exc:
            raised.append(exc)
            raise

    async with rig(stack([middleware], query(handler))) as r, trio.open_nursery() as nursery:
        nursery.start_soon(r.channel.unary, methods.QUERY, QueryRequest())
        await begun.wait()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
            given_up.set()
            await trio.testing.wait_all_tasks_blocked()
    assert [type(each) for each in raised] == [CancelledError]
    assert [entry for entry in log_guard if entry["log_level"] == "error"] == []


async def test_a_lost_connection_ends_the_handlers() -> None:
    """All of them."""
    running = 0
    all_run = trio.Event()

    async def handler(call: ServerCall, request: QueryRequest) -> QueryResponse:
        nonlocal running
        running += 1
        if running == 10:
            all_run.set()
        try:
            return await for_ever(call, request)
        finally:
            running -= 1

    async with rig(query(handler)) as r, trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(UnavailableError):
                await r.channel.unary(methods.QUERY, QueryRequest())

        for _ in range(10):
            nursery.start_soon(call)
        await all_run.wait()
        await r.client.aclose()
        r.session.lose("gone")
        await trio.testing.wait_all_tasks_blocked()
        assert running == 0


async def test_a_deadline_ends_the_call_on_both_sides(autojump_clock: trio.testing.MockClock) -> None:
    """The server enforces grpc-timeout; the client does not wait longer than it said."""
    ended_at: list[float] = []

    async def handler(call: ServerCall, request: QueryRequest) -> QueryResponse:
        try:
            return await for_ever(call, request)
        finally:
            ended_at.append(trio.current_time())

    async with rig(query(handler)) as r:
        begun = trio.current_time()
        with pytest.raises(DeadlineExceededError):
            await r.channel.unary(methods.QUERY, QueryRequest(), timeout=7)
        await trio.testing.wait_all_tasks_blocked()
    assert trio.current_time() - begun < 8
    assert [round(at - begun) for at in ended_at] == [7]


async def test_a_caller_that_forgets_its_own_deadline_is_told_of_it(autojump_clock: trio.testing.MockClock) -> None:
    """The server's clock alone ends the handler, and the answer is DEADLINE_EXCEEDED."""
    begun = trio.current_time()
    server, client = MemoryTransport.pair()
    caller = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    caller.initiate_connection()
    caller.send_headers(1, (*CALL, ("grpc-timeout", "7S")))
    caller.send_data(1, bytes(5), end_stream=True)  # an empty message
    client.write((caller.data_to_send(),))
    handler = router({methods.QUERY.path: unary(for_ever)})
    told: dict[str, str] = {}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve_connection, server, handler, draining=trio.Event(), keepalive=1000))
        while "grpc-status" not in told:
            data = await client.receive()
            assert data, "the connection has ended"
            for event in caller.receive_data(data):
                told.update(getattr(event, "headers", None) or ())
        nursery.cancel_scope.cancel()
    assert (told["grpc-status"], trio.current_time() - begun) == (str(int(Code.DEADLINE_EXCEEDED)), 7)


async def test_a_server_that_goes_away_gives_every_call_an_end() -> None:
    """Nothing hangs: neither a unary call nor a stream."""

    async def stream(call: ServerCall, request: StreamRequest) -> None:
        await call.send(StreamResponse(output=Output(b"x")))
        await trio.sleep_forever()

    handlers = {methods.QUERY.path: unary(for_ever), methods.STREAM.path: server_stream(stream)}
    async with rig(router(handlers)) as r, trio.open_nursery() as nursery:
        streaming = trio.Event()

        async def call() -> None:
            with pytest.raises(UnavailableError):
                await r.channel.unary(methods.QUERY, QueryRequest())

        async def follow() -> None:
            async with r.channel.call(methods.STREAM, StreamRequest()) as answers:
                assert await answers.receive()
                streaming.set()
                with pytest.raises(UnavailableError):
                    await answers.receive()

        nursery.start_soon(call)
        nursery.start_soon(follow)
        await streaming.wait()
        await r.server.aclose()


async def test_draining_lets_open_calls_end_and_takes_no_new_ones(autojump_clock: trio.testing.MockClock) -> None:
    """GOAWAY, then the answer of the open call, then the end of the connection: by the client, if it is soon."""
    go = trio.Event()

    async def handler(call: ServerCall, request: QueryRequest) -> QueryResponse:
        await go.wait()
        return QueryResponse(Job(id="late"))

    async with rig(query(handler)) as r:
        got: list[str] = []

        async def call() -> None:
            got.append((await r.channel.unary(methods.QUERY, QueryRequest())).job.id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
            r.draining.set()
            await trio.testing.wait_all_tasks_blocked()
            assert not r.channel.usable
            with pytest.raises(UnavailableError):
                await r.channel.unary(methods.QUERY, QueryRequest())
            go.set()
        assert got == ["late"]
        await trio.testing.wait_all_tasks_blocked()
        assert not r.server.closed
        await trio.sleep(LAST_WORDS)
        await trio.testing.wait_all_tasks_blocked()
        assert r.server.closed


async def test_a_dead_peer_is_found_by_keepalive(autojump_clock: trio.testing.MockClock) -> None:
    """A PING that is not answered ends the connection, and its handlers."""
    async with rig(query(for_ever), keepalive=30) as r, trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises((UnavailableError, CancelledError)):
                await r.channel.unary(methods.QUERY, QueryRequest())

        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        r.client.flow(flowing=False)  # its answers reach nobody any more
        await trio.sleep(61)
        await trio.testing.wait_all_tasks_blocked()
        assert r.server.closed


async def test_middleware_stands_in_front_of_unary_and_streaming_calls_alike() -> None:
    """The first in the list is the outermost, and can end the call."""
    seen: list[str] = []

    async def note(call: ServerCall, proceed: Handler) -> None:
        seen.append(f"before {call.method.name if call.method else '?'}")
        await proceed(call)

    async def refuse(call: ServerCall, proceed: Handler) -> None:
        raise PermissionDeniedError("no")

    handlers = {methods.QUERY.path: unary(answer), methods.STREAM.path: server_stream(big_stream)}
    async with rig(stack([note, refuse], router(handlers))) as r:
        with pytest.raises(PermissionDeniedError):
            await r.channel.unary(methods.QUERY, QueryRequest())
        async with r.channel.call(methods.STREAM, StreamRequest()) as answers:
            with pytest.raises(PermissionDeniedError):
                await answers.receive()
    assert seen == ["before Query", "before Stream"]
