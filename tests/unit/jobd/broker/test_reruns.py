"""Streams of jobs that are run again: a real broker, and clients that lose their connection to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Final

import betterproto
import pytest
import trio

from api import messages as m
from api import methods
from api.errors import AbortedError, UnavailableError
from api.identity import Principal
from api.output import OutputStream
from api.rpc.channel import Channel
from api.rpc.server import Handler, ServerCall, router, stack
from jobd.broker.broker import Broker
from jobd.service.errors import translate_errors
from jobd.service.job_worker import JobWorkerService
from jobd.worker.errors import JobNotFoundError
from jobd.worker.job import Job, JobSpec, Reason
from jobd.worker.lifecycle import State
from jobd.worker.ports import Start
from jobd.worker.supervisor import Stop
from tests.support.broker import Make
from tests.support.patience import patient
from tests.support.pool_steps import JOB
from tests.support.rig import Rig, rig

STAYS: Final = JobSpec(("sh", "-c", "echo 0123456789; exec sleep 1000"), retry_lost=9)


class Wire:
    """A server over memory, as :class:`api.output.Servers`."""

    def __init__(self, nursery: trio.Nursery, handler: Handler) -> None:
        self.retry_for = patient(20)
        self._nursery = nursery
        self._handler = handler
        self._rig: Rig | None = None

    async def channel(self) -> Channel:
        if self._rig is None:
            self._rig = await self._nursery.start(self._hold)
        return self._rig.channel

    async def _hold(self, task_status: trio.TaskStatus[Rig]) -> None:
        async with rig(self._handler) as made:
            task_status.started(made)
            await trio.sleep_forever()

    def avoid(self, channel: Channel) -> None:
        """There is no other one."""

    async def cut(self) -> None:
        """Lose the connection; the next call makes another one."""
        assert self._rig
        lost, self._rig = self._rig, None
        await lost.server.aclose()
        await lost.client.aclose()


async def as_ann(call: ServerCall, proceed: Handler) -> None:
    call.principal = Principal("ann", frozenset(), "1")
    await proceed(call)


@asynccontextmanager
async def wire_to(broker: Broker, *, heartbeat: float = 1000, pooled: bool = True) -> AsyncIterator[Wire]:
    service = JobWorkerService(broker, heartbeat, pooled=pooled)
    with trio.fail_after(patient(20)):
        async with trio.open_nursery() as nursery:
            yield Wire(nursery, stack([translate_errors, as_ann], router(service.handlers())))
            nursery.cancel_scope.cancel()


async def run(broker: Broker, attempt: int) -> None:
    """The job, as a pool has a machine run it; what was here of it before is gone."""
    if broker.registry.known(JOB):
        await broker.stop(JOB, Stop(by="ann", grace=0))
        await broker.delete(JOB)
    mine = Job(JOB, STAYS, State.PENDING, 1, request_id=f"pool:{attempt}:i", reason=Reason.UNCLAIMED, attempt=attempt)
    await broker.held.hold(mine)
    broker.held.release(JOB)


def stream(wire: Wire, **where: int) -> AbstractAsyncContextManager[OutputStream]:
    return aclosing(OutputStream(wire, m.StreamRequest(JOB, **where)))


async def whole(wire: Wire) -> bytes:
    """What it writes, when it has."""
    async with stream(wire) as output:
        return await read(output, 11)


async def read(output: OutputStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += (await anext(output)).data
    return data


@pytest.mark.parametrize("where", [{"offset": 4}, {"tail_bytes": 7}], ids=str)
async def test_a_stream_of_a_job_that_was_run_again_begins_anywhere(make: Make, where: dict[str, int]) -> None:
    """And goes on there after the connection was lost."""
    async with make() as broker, wire_to(broker) as wire:
        await run(broker, 3)
        assert await whole(wire) == b"0123456789\n"
        async with stream(wire, **where) as output:
            assert await read(output, 7) == b"456789\n"
            await wire.cut()
            await broker.stop(JOB, Stop(by="ann", grace=0))
            with pytest.raises(StopAsyncIteration):
                await anext(output)
        assert output.verdict is not None
        assert output.verdict.end_offset == output.offset == 11


@pytest.mark.parametrize("first", [0, 3])
async def test_a_stream_that_is_cut_goes_on_in_no_other_run(make: Make, first: int) -> None:
    """What it gave is not what the next run wrote, even if there is as much of it."""
    async with make() as broker, wire_to(broker) as wire:
        await run(broker, first)
        async with stream(wire) as output:
            assert await read(output, 11) == b"0123456789\n"
            await wire.cut()
            await run(broker, first + 1)
            with pytest.raises(AbortedError) as refused:
                await anext(output)
        assert refused.value.reason == "RUN_LOST"
        assert await whole(wire) == b"0123456789\n"


async def test_a_stream_that_has_read_nothing_yet_is_not_given_the_next_run(make: Make) -> None:
    """The run was lost, and is run again on the same machine, before its files were opened."""
    async with make() as broker, wire_to(broker) as wire:
        await run(broker, 0)
        assert await whole(wire) == b"0123456789\n"
        follower, cell = await broker.follow(JOB, Start(), 0)
        await run(broker, 1)
        assert await whole(wire) == b"0123456789\n"
        with pytest.raises(JobNotFoundError):
            await follower.receive()
        follower.close()
        assert cell.job.attempt == 0


async def test_each_heartbeat_says_which_run_it_is_of(make: Make) -> None:
    """The one that a stream begins with, before any output, and those of a quiet one; each with its own offset."""
    async with make() as broker, wire_to(broker, heartbeat=0.02) as wire:
        await run(broker, 3)
        assert await whole(wire) == b"0123456789\n"
        before: list[object] = []
        after: list[object] = []
        async with (await wire.channel()).call(methods.STREAM, m.StreamRequest(JOB, tail_bytes=7)) as answers:
            told = before
            while len(after) < 2:
                answer = await answers.receive()
                assert answer is not None
                event = betterproto.which_one_of(answer, "event")[1]
                if isinstance(event, m.Output):
                    assert event.data == b"456789\n"
                    told = after
                else:
                    told.append(event)
        assert set(map(repr, before)) == {repr(m.Heartbeat(4, 3))}
        assert set(map(repr, after)) == {repr(m.Heartbeat(11, 3))}


async def test_only_a_pool_runs_a_job_again(make: Make) -> None:
    """Elsewhere (in a state directory that left its pool) one that was lost has ended, and that is told."""
    lost = Job(JOB, STAYS, State.LOST, 1, request_id="pool:0:i", reason=Reason.REBOOTED, ended_at=2)
    async with make() as broker:
        await broker.registry._store.insert(lost)
        async with wire_to(broker) as wire:
            channel = await wire.channel()
            for method, request in ((methods.QUERY, m.QueryRequest(JOB)), (methods.STOP, m.StopRequest(JOB))):
                with pytest.raises(UnavailableError) as refused:
                    await channel.unary(method, request)  # type: ignore[arg-type] # each has its own
                assert refused.value.reason == "JOB_RUNS_AGAIN"
            async with stream(wire) as output:
                with pytest.raises(AbortedError) as aborted:
                    await anext(output)
            assert aborted.value.reason == "RUN_LOST"
        async with wire_to(broker, pooled=False) as wire:
            channel = await wire.channel()
            assert (await channel.unary(methods.QUERY, m.QueryRequest(JOB))).job.state == m.JobState.LOST
            assert (await channel.unary(methods.STOP, m.StopRequest(JOB))).job.state == m.JobState.LOST
            async with stream(wire) as output:
                with pytest.raises(StopAsyncIteration):
                    await anext(output)
            assert output.verdict is not None
            assert output.verdict.state == m.JobState.LOST
