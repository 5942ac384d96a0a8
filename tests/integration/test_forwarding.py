"""A broker hands calls on to the machine that has the job: over real connections, on behalf of whoever called."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import betterproto
import pytest
import trio

from api import messages as m
from api import methods
from api.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    RpcError,
    UnavailableError,
)
from api.rpc.channel import Channel, open_channel
from api.rpc.server import Handler, ServerCall, router, server_stream, stack, unary
from api.rpc.windows import SEPARATE
from api.trace import TraceContext
from jobd.middleware.authentication import authenticate
from jobd.middleware.authorization import authorize
from jobd.middleware.delegation import act_for
from jobd.pools.remote.forwarding import forward, forward_conversation
from jobd.pools.remote.links import Links, Machine, open_links
from jobd.transport.listener import bind
from tests.support.patience import patient
from tests.support.pki import TestPki
from tests.support.serving import serving

PIECE: Final = b"x" * 60_000


class Worker:
    """The machine that has the jobs; it writes down who asked for what."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str], str | None, str | None]] = []
        self.sent = 0
        self.attempts: list[int | None] = []
        self.given_up = trio.Event()

    def _note(self, call: ServerCall) -> None:
        assert call.principal is not None
        broker = call.broker.name if call.broker else None
        trace = call.trace.trace_id if call.trace else None
        self.asked.append((call.principal.name, sorted(call.principal.roles), broker, trace))

    async def query(self, call: ServerCall, request: m.QueryRequest) -> m.QueryResponse:
        self._note(call)
        if request.job_id == "none":
            raise NotFoundError("there is no job none", reason="JOB_NOT_FOUND", metadata={"a": "b"}, retry_after=1.5)
        return m.QueryResponse(m.Job(id=request.job_id, pid=7))

    async def stop(self, call: ServerCall, request: m.StopRequest) -> m.StopResponse:
        self._note(call)
        return m.StopResponse(m.Job(id=request.job_id))

    async def stream(self, call: ServerCall, request: m.StreamRequest) -> None:
        self.attempts.append(request.attempt)
        try:
            for number in range(request.offset):
                await call.writable()
                await call.send(m.StreamResponse(output=m.Output(PIECE, number)))
                self.sent += 1
        finally:
            self.given_up.set()
        await call.send(m.StreamResponse(verdict=m.Verdict(end_offset=request.offset)))

    async def attach(self, call: ServerCall) -> None:
        """Says everything again, and ends in the middle of a word when it hears one that it does not like."""
        while isinstance(request := await call.receive_next(), m.AttachRequest):
            if request.data == b"stop":
                raise FailedPreconditionError("it has ended", reason="JOB_ENDED")
            await call.send(m.AttachResponse(output=m.Output(request.data)))

    def handler(self) -> Handler:
        routes = router(
            {
                methods.QUERY.path: unary(self.query),
                methods.STOP.path: unary(self.stop),
                methods.STREAM.path: server_stream(self.stream),
                methods.ATTACH.path: self.attach,
            }
        )
        return stack([authenticate, act_for, authorize], routes)


def broker(links: Links, machine: Machine) -> Handler:
    """A broker whose jobs are all on that machine."""

    async def hand_on(call: ServerCall) -> None:
        await forward(call, links, machine, await call.receive())

    async def attach(call: ServerCall) -> None:
        first = await call.receive_next()
        assert isinstance(first, m.AttachRequest)
        await forward_conversation(call, links, machine, first)

    handed_on = {method.path: hand_on for method in (methods.QUERY, methods.STOP, methods.STREAM)}
    return stack([authenticate, authorize], router({**handed_on, methods.ATTACH.path: attach}))


@asynccontextmanager
async def pool(pki: TestPki, name: str = "localhost", as_whom: str = "broker") -> AsyncIterator[tuple[Worker, int]]:
    """A worker, and a broker in front of it; gives the broker's port."""
    worker = Worker()
    with trio.fail_after(patient(20)):
        async with (
            serving(pki, worker.handler()) as port,
            open_links(lambda: pki.context(as_whom)) as links,
            serving(pki, broker(links, Machine(name, f"127.0.0.1:{port}"))) as front,
        ):
            yield worker, front


def client(
    pki: TestPki, port: int, name: str = "alice", trace: TraceContext | None = None
) -> AbstractAsyncContextManager[Channel]:
    return open_channel("localhost", port, pki.context(name), trace=trace, windows=SEPARATE)


async def query(channel: Channel, job_id: str = "1") -> m.Job | None:
    return (await channel.unary(methods.QUERY, m.QueryRequest(job_id))).job


async def test_a_call_is_made_on_behalf_of_whoever_called(pki: TestPki) -> None:
    """The worker hears who it is, in which roles and in which trace, and which broker says so; the answer is its."""
    trace = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    async with pool(pki) as (worker, port):
        async with client(pki, port, trace=trace) as channel:
            assert (await query(channel)) == m.Job(id="1", pid=7)
        async with client(pki, port, "rita") as channel:
            await query(channel)
    assert worker.asked == [
        ("alice", ["writer"], "broker", trace.trace_id),
        ("rita", ["reader"], "broker", None),
    ]


async def test_a_status_comes_back_with_its_details(pki: TestPki) -> None:
    """Code, reason, facts, and when to try again."""
    async with pool(pki) as (_, port), client(pki, port) as channel:
        with pytest.raises(NotFoundError, match="there is no job none") as caught:
            await query(channel, "none")
    assert (caught.value.reason, caught.value.metadata) == ("JOB_NOT_FOUND", {"a": "b"})
    assert caught.value.retry_after == 1.5


async def test_what_the_caller_may_not_do_the_broker_does_not_do_for_it(pki: TestPki) -> None:
    """A reader's Stop is refused at the broker, and nothing is handed on."""
    async with pool(pki) as (worker, port), client(pki, port, "rita") as channel:
        with pytest.raises(PermissionDeniedError):
            await channel.unary(methods.STOP, m.StopRequest("1"))
    assert worker.asked == []


async def test_a_stream_is_asked_for_as_the_caller_did(pki: TestPki) -> None:
    """That it is to be of the first run is not the same as that nothing was said of that."""
    wanted = [None, 0, 1]
    async with pool(pki) as (worker, port), client(pki, port) as channel:
        for attempt in wanted:
            async with channel.call(methods.STREAM, m.StreamRequest("1", offset=0, attempt=attempt)) as answers:
                while await answers.receive():
                    pass
    assert worker.attempts == wanted


async def test_a_stream_that_nobody_reads_stays_with_the_worker(pki: TestPki) -> None:
    """It holds up neither other streams nor other calls; what is on its way is bounded; all of it comes in the end."""
    async with (
        pool(pki) as (worker, port),
        client(pki, port) as channel,
        channel.call(methods.STREAM, m.StreamRequest("1", offset=1000)) as slow,
    ):
        assert (await slow.receive()) is not None
        for _ in range(20):
            await query(channel)
            async with channel.call(methods.STREAM, m.StreamRequest("2", offset=10)) as quick:
                while await quick.receive() is not None:
                    pass
        # Two windows, two kernels' buffers, and what either side has in its hands: far less than all of it.
        assert worker.sent - 200 < 500
        count = 1
        while (event := await slow.receive()) is not None:
            count += betterproto.which_one_of(event, "event") == ("output", m.Output(PIECE, count))
    assert count == 1000


async def test_a_stream_that_is_given_up_is_given_up_at_the_worker(pki: TestPki) -> None:
    """Nobody goes on to read for it."""
    async with pool(pki) as (worker, port), client(pki, port) as channel:
        async with channel.call(methods.STREAM, m.StreamRequest("1", offset=1_000_000)) as stream:
            await stream.receive()
        await worker.given_up.wait()
    assert worker.sent < 1_000_000


async def test_a_conversation_goes_both_ways_until_the_caller_ends_it(pki: TestPki) -> None:
    """What is said comes to the worker, what it answers comes back; its end is the end."""
    async with (
        pool(pki) as (_, port),
        client(pki, port) as channel,
        channel.converse(methods.ATTACH) as conversation,
    ):
        for word in (b"one", b"two"):
            await conversation.send(m.AttachRequest(data=word))
            answer = await conversation.receive()
            assert answer is not None
            assert answer.output is not None
            assert answer.output.data == word
        conversation.end()
        assert await conversation.receive() is None


async def test_a_conversation_ends_with_the_worker_s_status(pki: TestPki) -> None:
    """Whatever the caller was about to say."""
    async with (
        pool(pki) as (_, port),
        client(pki, port) as channel,
        channel.converse(methods.ATTACH) as conversation,
    ):
        await conversation.send(m.AttachRequest(data=b"stop"))
        with pytest.raises(FailedPreconditionError, match="it has ended"):
            await conversation.receive()


@pytest.mark.parametrize(
    ("name", "as_whom"), [("other-machine", "broker"), ("localhost", "alice"), ("localhost", "expired")]
)
async def test_what_is_wrong_between_broker_and_worker_is_not_told_of_the_caller(
    pki: TestPki, name: str, as_whom: str
) -> None:
    """A server that is not the machine it should be, and a certificate that is no broker's or no good: the worker
    cannot be reached now, which is what there is to know for somebody who calls."""
    async with pool(pki, name, as_whom) as (worker, port), client(pki, port) as channel:
        with pytest.raises(UnavailableError) as caught:
            await query(channel)
    assert (caught.value.reason, caught.value.metadata) == ("WORKER_UNREACHABLE", {"worker": name})
    assert worker.asked == []


async def test_a_worker_that_is_not_there_is_unavailable(pki: TestPki) -> None:
    """At once, where nobody listens."""
    with bind("127.0.0.1", 0) as closed:
        port = closed.getsockname()[1]
    with trio.fail_after(patient(20)):
        async with (
            open_links(lambda: pki.context("broker")) as links,
            serving(pki, broker(links, Machine("localhost", f"127.0.0.1:{port}"))) as front,
            client(pki, front) as channel,
        ):
            with pytest.raises(UnavailableError, match="cannot be reached now"):
                await query(channel)


async def test_only_a_broker_acts_for_others(pki: TestPki) -> None:
    """Whoever else says so is refused, writers too; and a broker may do nothing for itself."""

    async def asking(name: str, port: int, metadata: Sequence[tuple[str, str]]) -> RpcError:
        async with client(pki, port, name) as channel:
            with pytest.raises(RpcError) as caught:
                await query(channel.saying(tuple(metadata)))
            return caught.value

    worker = Worker()
    as_rita = [("jobd-acting-for", "rita"), ("jobd-acting-as", "reader")]
    with trio.fail_after(patient(20)):
        async with serving(pki, worker.handler()) as port:
            for name in ("alice", "both", "nobody"):
                error = await asking(name, port, as_rita)
                assert (type(error), error.metadata) == (PermissionDeniedError, {"needed": "broker"})
            assert isinstance(await asking("broker", port, []), PermissionDeniedError)
            for broken in (as_rita[:1], as_rita * 2, [("jobd-acting-for", "rita"), ("jobd-acting-as", "broker")]):
                error = await asking("broker", port, broken)
                assert isinstance(error, InvalidArgumentError)
                assert [each.field for each in error.violations] == ["jobd-acting-for"]
    assert worker.asked == []
