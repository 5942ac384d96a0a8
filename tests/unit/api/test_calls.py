"""Calls that begin, and mostly end, in the turn of their connection's reader. In memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.lowlevel
import trio.testing
from structlog.typing import EventDict

from api import methods
from api.call_context import current
from api.errors import Code, DeadlineExceededError, InternalError, NotFoundError, RpcError, UnimplementedError
from api.messages import Job, QueryRequest, QueryResponse
from api.protobuf import encode
from api.rpc.access import Access, Refusal
from api.rpc.call import ServerCall
from api.rpc.handlers import Handler, at_once, router, stack, unary
from api.rpc.server import serve_connection
from jobd.middleware.outcomes import observed
from tests.support.rig import answer, rig
from tests.support.transport import MemoryTransport
from tests.support.wire import CALL, RawClient

PATH = methods.QUERY.path
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACED = (*CALL, ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"))


def now(call: ServerCall, request: QueryRequest) -> QueryResponse:
    return QueryResponse(Job(id=request.job_id))


def later(call: ServerCall, request: QueryRequest) -> Callable[[], Awaitable[QueryResponse]]:
    return partial(answer, call, request)


class Counted(trio.abc.Instrument):
    """Tasks that were begun."""

    def __init__(self) -> None:
        self.tasks = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.tasks += 1


@asynccontextmanager
async def counted() -> AsyncIterator[Counted]:
    found = Counted()
    trio.lowlevel.add_instrument(found)
    yield found
    trio.lowlevel.remove_instrument(found)


class Outcomes:
    """The statuses of calls, as an observer is told of them."""

    def __init__(self) -> None:
        self.statuses: list[Code] = []

    def handler(self, inner: Handler) -> Handler:
        return stack([observed([self._observe])], router({PATH: inner}))

    def _observe(self, call: ServerCall, status: Code, reason: str, seconds: float) -> None:
        self.statuses.append(status)


@asynccontextmanager
async def raw_server(
    handler: Handler, access: Access | None = None
) -> AsyncIterator[tuple[MemoryTransport, RawClient]]:
    """A server, and the end at which its client's bytes go in."""
    server, client = MemoryTransport.pair()
    raw = RawClient()
    async with trio.open_nursery() as nursery:
        serve = partial(serve_connection, server, handler, draining=trio.Event(), keepalive=1000, access=access)
        nursery.start_soon(serve)
        client.write([raw.begin()])
        await trio.testing.wait_all_tasks_blocked()
        yield client, raw
        nursery.cancel_scope.cancel()


# ---- no task


@pytest.mark.parametrize(("handler", "tasks"), [(at_once(now), 0), (at_once(later), 1), (unary(answer), 1)])
async def test_a_call_that_is_answered_at_once_costs_no_task(handler: Handler, tasks: int) -> None:
    """One that has to wait costs one; the answer is the same."""
    async with rig(router({PATH: handler})) as r:
        await r.channel.unary(methods.QUERY, QueryRequest("x"))
        async with counted() as seen:
            for _ in range(3):
                assert (await r.channel.unary(methods.QUERY, QueryRequest("x"))).job.id == "x"
            assert seen.tasks == 3 * tasks
        assert r.session.streams == {}


async def test_what_is_asked_together_is_answered_in_one_write() -> None:
    """Ten requests that come at once are one turn, and one send."""
    async with raw_server(router({PATH: at_once(now)})) as (client, raw):
        await client.receive()
        writes: list[int] = []
        move = client._other._move
        client._other._move = lambda: (writes.append(1), move())[1]  # type: ignore[method-assign]
        client.write([b"".join(raw.call(stream_id) for stream_id in range(1, 20, 2))])
        await trio.testing.wait_all_tasks_blocked()
        assert len(writes) == 1


async def test_what_stands_in_front_runs_once_for_a_call_that_goes_on_in_a_task() -> None:
    """A quota's token is taken once, wherever the call ends."""
    seen: list[bool] = []

    async def middleware(call: ServerCall, proceed: Handler) -> None:
        seen.append(call.in_turn)
        await proceed(call)
        seen.append(call.in_turn)

    async with rig(stack([middleware], router({PATH: unary(answer)}))) as r:
        await r.channel.unary(methods.QUERY, QueryRequest("x"))
    assert seen == [True, False]


async def test_a_handler_that_nobody_vouched_for_has_its_own_task() -> None:
    """It may enter cancel scopes and nurseries, and wait, as it likes."""

    async def handler(call: ServerCall) -> None:
        with trio.move_on_after(60):
            await trio.lowlevel.checkpoint()
        request = await call.receive()
        assert isinstance(request, QueryRequest)
        await call.answer(await answer(call, request))

    for bare in (handler, router({PATH: handler}), stack([], handler)):
        async with rig(bare) as r:
            assert (await r.channel.unary(methods.QUERY, QueryRequest("x"))).job.id == "x"


async def test_whoever_waits_in_the_turn_is_found_out() -> None:
    """A handler that promised not to wait there, and does, is a bug that is seen at once."""

    async def liar(call: ServerCall, proceed: Handler) -> None:
        await trio.lowlevel.checkpoint()
        await proceed(call)

    with pytest.raises(BaseExceptionGroup) as caught:
        async with rig(stack([liar], router({PATH: at_once(now)}))) as r:
            await r.channel.unary(methods.QUERY, QueryRequest("x"))
    assert caught.group_contains(RuntimeError, match="waited in the turn")


# ---- every call's end


async def test_an_error_ends_a_call_in_the_turn_as_in_a_task(errors_expected: list[EventDict]) -> None:
    """With its status; a bug with INTERNAL; and the connection goes on."""

    def fail(call: ServerCall, request: QueryRequest) -> QueryResponse:
        if request.job_id == "bug":
            raise ValueError("the secret is hunter2")
        raise NotFoundError("gone", reason="R")

    outcomes = Outcomes()
    async with rig(outcomes.handler(at_once(fail))) as r:
        with pytest.raises(NotFoundError, match="gone"):
            await r.channel.unary(methods.QUERY, QueryRequest("x"))
        with pytest.raises(InternalError) as caught:
            await r.channel.unary(methods.QUERY, QueryRequest("bug"))
        with pytest.raises(UnimplementedError):
            await r.channel.unary(methods.STOP, methods.STOP.request())
        assert r.session.streams == {}
    assert "hunter2" not in caught.value.message
    assert outcomes.statuses == [Code.NOT_FOUND, Code.INTERNAL, Code.UNIMPLEMENTED]
    assert len(errors_expected) == 0  # they are added at the test's end: the log has the incident


async def test_no_time_left_is_no_call() -> None:
    """A deadline that has passed when the request comes: the handler does not begin."""
    asked: list[str] = []

    def note(call: ServerCall, request: QueryRequest) -> QueryResponse:
        asked.append(request.job_id)
        return now(call, request)

    async with rig(router({PATH: at_once(note)})) as r:
        with pytest.raises(DeadlineExceededError):
            await r.channel.unary(methods.QUERY, QueryRequest("x"), timeout=0)
    assert asked == []


async def test_no_time_left_is_no_call_where_nothing_waits() -> None:
    """In a task as well, though nobody has looked at the clock since it began."""
    asked: list[str] = []

    async def in_a_task(call: ServerCall, proceed: Handler) -> None:
        await call.own_task()
        await proceed(call)

    def note(call: ServerCall, request: QueryRequest) -> QueryResponse:
        asked.append(request.job_id)
        return now(call, request)

    timed = (*CALL, ("grpc-timeout", "0n"))
    async with raw_server(stack([in_a_task], router({PATH: at_once(note)}))) as (client, raw):
        client.write([b"".join(raw.headers(stream, timed) + raw.message(stream) for stream in (1, 3, 5))])
        await trio.testing.wait_all_tasks_blocked()
    assert asked == []


@pytest.mark.parametrize("handler", [at_once(later), unary(answer)])
async def test_a_request_that_is_given_up_at_once_is_cancelled_where_it_waits(handler: Handler) -> None:
    """RST_STREAM in the same turn: what has begun is told before it goes on in its task."""
    outcomes = Outcomes()
    async with raw_server(outcomes.handler(handler)) as (client, raw):
        client.write([raw.call(1) + raw.reset(1)])
        await trio.testing.wait_all_tasks_blocked()
    assert outcomes.statuses == [Code.CANCELLED]


@pytest.mark.parametrize("handler", [at_once(now), unary(answer)])
async def test_whoever_is_told_of_calls_is_told_of_one_that_was_given_up_before_it_was_complete(
    handler: Handler,
) -> None:
    """Headers and RST_STREAM in the same turn. Its handler is not asked: it might do something."""
    outcomes = Outcomes()
    async with raw_server(outcomes.handler(handler)) as (client, raw):
        client.write([raw.headers(1) + raw.reset(1)])
        await trio.testing.wait_all_tasks_blocked()
        assert outcomes.statuses == [Code.CANCELLED]


async def test_an_answer_to_a_request_that_was_given_up_meanwhile_goes_nowhere() -> None:
    """It is CANCELLED, as if it had been waiting; the next call of the same turn goes through."""
    outcomes = Outcomes()
    async with raw_server(outcomes.handler(at_once(now))) as (client, raw):
        client.write([raw.call(1) + raw.reset(1) + raw.call(3)])
        await trio.testing.wait_all_tasks_blocked()
    assert outcomes.statuses == [Code.OK, Code.CANCELLED]


@pytest.mark.parametrize("in_pieces", [False, True])
async def test_whoever_is_told_of_calls_is_told_of_those_that_are_refused(in_pieces: bool) -> None:
    """However the request of a peer that is not let in comes: it is refused where everybody is, and not before."""

    async def let_in(call: ServerCall, proceed: Handler) -> None:
        assert call.refusal
        raise call.refusal.error()

    outcomes = Outcomes()
    refused = Access(Refusal("GONE", "you are not known here any more"))
    handler = outcomes.handler(stack([let_in], at_once(now)))
    async with raw_server(handler, refused) as (client, raw):
        client.write([raw.headers(1)])
        if in_pieces:
            await trio.testing.wait_all_tasks_blocked()
        client.write([raw.message(1)])
        await trio.testing.wait_all_tasks_blocked()
        assert outcomes.statuses == [Code.UNAUTHENTICATED]


async def test_a_request_that_comes_in_pieces_is_one_call() -> None:
    """Whatever turns its pieces come in: it begins in a task, which waits for the rest."""
    whole = b""
    for size in (1, 9, 30):
        outcomes = Outcomes()
        async with raw_server(outcomes.handler(at_once(now))) as (client, raw):
            whole = raw.headers(1) + raw.message(1, encode(QueryRequest("x")))
            for start in range(0, len(whole), size):
                client.write([whole[start : start + size]])
                await trio.testing.wait_all_tasks_blocked()
        assert outcomes.statuses == [Code.OK]


async def test_two_messages_are_no_unary_request() -> None:
    """Nor is none: both go the way that says so."""
    outcomes = Outcomes()
    async with raw_server(outcomes.handler(at_once(now))) as (client, raw):
        client.write([raw.headers(1) + raw.message(1, end=False) + raw.message(1) + raw.headers(3, end=True)])
        await trio.testing.wait_all_tasks_blocked()
    assert outcomes.statuses == [Code.UNIMPLEMENTED] * 2


async def test_an_answer_that_is_large_waits_for_the_peer() -> None:
    """In a task of its own, with the rest of what a slow peer may cost."""

    def large(call: ServerCall, request: QueryRequest) -> QueryResponse:
        return QueryResponse(Job(id="x" * 3_000_000 if request.job_id else ""))

    async with rig(router({PATH: at_once(large)})) as r:
        await r.channel.unary(methods.QUERY, QueryRequest())
        async with counted() as seen:
            assert len((await r.channel.unary(methods.QUERY, QueryRequest("x"))).job.id) == 3_000_000
            assert seen.tasks == 1


async def test_nothing_is_answered_in_the_turn_to_whom_does_not_read() -> None:
    """Its calls wait in tasks, which are counted and limited."""
    outcomes = Outcomes()
    async with raw_server(outcomes.handler(at_once(now))) as (client, raw):
        client._other.flow(flowing=False)
        client.write([raw.call(1)])
        await trio.testing.wait_all_tasks_blocked()
        async with counted() as seen:
            client.write([raw.call(3)])
            await trio.testing.wait_all_tasks_blocked()
            assert seen.tasks == 1


# ---- the log


def trace_that_is_said() -> str:
    call = current()
    assert call is not None
    return call.trace_id


@pytest.mark.parametrize("handler", [at_once(now), at_once(later), unary(answer)])
async def test_what_is_said_of_a_call_is_said_in_its_trace(handler: Handler) -> None:
    """In the turn and in the task; and nothing that is said afterwards is."""
    said: list[str] = []

    async def note(call: ServerCall, proceed: Handler) -> None:
        said.append(trace_that_is_said())
        await proceed(call)
        said.append(trace_that_is_said())

    async with raw_server(stack([note], router({PATH: handler}))) as (client, raw):
        for stream_id, headers in ((1, TRACED), (3, CALL)):
            client.write([raw.headers(stream_id, headers) + raw.message(stream_id, encode(QueryRequest("x")))])
            await trio.testing.wait_all_tasks_blocked()
    assert said == [TRACE, TRACE, "", ""]
    assert current() is None


# ---- the client's side


async def test_a_second_answer_is_an_error_and_is_not_waited_behind() -> None:
    """Whoever waits for the end of a call is woken by a second message, whatever comes after it."""

    async def handler(call: ServerCall) -> None:
        message = QueryResponse(Job(id="x"))
        await call.send_all([encode(message), encode(message)])
        await trio.sleep_forever()

    async with rig(router({PATH: handler})) as r:
        with pytest.raises(RpcError, match="not with one message"):
            await r.channel.unary(methods.QUERY, QueryRequest("x"))
        assert r.session.streams == {}


@pytest.mark.parametrize("size", [0, 60_000, 70_000, 3_000_000])
async def test_a_request_of_any_size_is_answered(size: int) -> None:
    """The short way has its limits, and the long one goes on from there."""
    async with rig(router({PATH: at_once(lambda call, request: QueryResponse(Job(id=str(len(request.job_id)))))})) as r:
        for _ in range(3):
            assert (await r.channel.unary(methods.QUERY, QueryRequest("x" * size))).job.id == str(size)
