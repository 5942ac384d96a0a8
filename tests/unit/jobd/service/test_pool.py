"""What a broker of a pool answers itself, of a pool of one job and of other machines that fail in the middle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

import betterproto
import pytest
import trio
from structlog.typing import EventDict

from api import messages as m
from api import methods
from api.errors import AbortedError, UnavailableError
from api.protobuf import new
from api.rpc.server import Handler, ServerCall, router, stack
from jobd.broker.broker import Broker
from jobd.broker.pooled import Machines, Member, Placed, Pool
from jobd.pools.remote.links import Machine, unreachable
from jobd.service import translate as t
from jobd.service.errors import translate_errors
from jobd.service.job_worker import JobWorkerService
from jobd.service.pool import Elsewhere, PoolService
from jobd.worker.job import Job, JobSpec
from jobd.worker.lifecycle import State
from tests.support.patience import patient
from tests.support.pool_steps import JOB
from tests.support.rig import rig

SPEC = JobSpec(("true",), retry_lost=9)
RUNS = Placed(Job(JOB, SPEC, State.STARTING, 1, worker="w2", attempt=2), "w2", "host:1")
STOPPED = Placed(Job(JOB, SPEC, State.STOPPED, 1, ended_at=2, attempt=2))


class OtherMachine:
    """It begins to answer, and is gone."""

    def __init__(self) -> None:
        self.away = trio.Event()

    async def gone(self, worker: str) -> None:
        await self.away.wait()

    async def forward(self, call: ServerCall, name: str, address: str, request: betterproto.Message) -> None:
        await call.send(new(m.QueryResponse, job=t.job_message(RUNS.job)))
        self.away.set()
        await trio.sleep_forever()


class OneJob:
    """A pool's, as it is found one time after the other."""

    def __init__(self, found: Iterable[Placed]) -> None:
        self._found: Iterator[Placed] = iter(found)

    async def find(self, reference: str) -> Placed:
        return next(self._found)

    claimed = find


def broker(*found: Placed) -> Handler:
    other = OtherMachine()
    elsewhere = Elsewhere(other.forward, None, None)  # type: ignore[arg-type] # nothing else is asked
    local = JobWorkerService(cast(Broker, None), 15)  # as above
    service = PoolService("w1", local, cast(Pool, OneJob(found)), cast(Machines, other), elsewhere)
    return stack([translate_errors], router(service.handlers()))


async def test_an_answer_that_has_begun_does_not_begin_again() -> None:
    """The machine that gave it went in the middle: that is an error, whatever the pool says of the job by then."""
    with trio.fail_after(patient(10)):
        async with rig(broker(RUNS, STOPPED)) as made:
            with pytest.raises(UnavailableError) as refused:
                await made.channel.unary(methods.QUERY, m.QueryRequest(JOB))
    assert refused.value.reason == "WORKER_UNREACHABLE"


@pytest.mark.parametrize("attempt", [0, 1])
async def test_a_stream_does_not_end_with_the_end_of_another_run(attempt: int) -> None:
    """Not of one that nobody had either: it was stopped while it waited to be run again."""
    with trio.fail_after(patient(10)):
        async with rig(broker(STOPPED)) as made:
            request = m.StreamRequest(JOB, offset=3, attempt=attempt)
            with pytest.raises(AbortedError) as refused:
                async with made.channel.call(methods.STREAM, request) as answers:
                    await answers.receive()
    assert refused.value.reason == "RUN_LOST"


@pytest.mark.parametrize("attempt", [None, 2])
async def test_a_stream_of_a_run_that_nobody_had_is_its_verdict(attempt: int | None) -> None:
    """There is no output."""
    with trio.fail_after(patient(10)):
        async with (
            rig(broker(STOPPED)) as made,
            made.channel.call(methods.STREAM, m.StreamRequest(JOB, attempt=attempt)) as answers,
        ):
            answer = await answers.receive()
    assert answer is not None
    assert answer.verdict.state == m.JobState.STOPPED


async def test_a_machine_that_nobody_reaches_at_its_address_is_shown(log_guard: list[EventDict]) -> None:
    """With the address that it gave; one that answers, or that is gone, has nothing of that."""
    names = ("w2", "w3", "w4")
    members = [Member(name, f"{name}.example.org:1", "1", 0, there=name != "w4", drained=False) for name in names]

    class Roster:
        pending = 0

        def members(self) -> list[Member]:
            return members

    async def ask(call: ServerCall, name: str, address: str, request: betterproto.Message) -> betterproto.Message:
        if name == "w3":
            raise unreachable(Machine(name, address))
        return m.ListWorkersResponse([m.Worker(name, weaknesses=["what its kernel lacks"])])

    elsewhere = Elsewhere(None, None, ask)  # type: ignore[arg-type] # nothing else is asked
    local = JobWorkerService(cast(Broker, None), 15)
    service = PoolService("w1", local, cast(Pool, None), cast(Machines, Roster()), elsewhere)
    with trio.fail_after(patient(10)):
        async with rig(stack([translate_errors], router(service.handlers()))) as made:
            answer = await made.channel.unary(methods.LIST_WORKERS, m.ListWorkersRequest())
    assert [len(worker.weaknesses) for worker in answer.workers] == [1, 1, 0]
    assert answer.workers[0].weaknesses == ["what its kernel lacks"]
    assert "does not answer this broker at w3.example.org:1, its --advertise" in answer.workers[1].weaknesses[0]
    assert [each["worker"] for each in log_guard if each["event"] == "a worker did not say what it has"] == ["w3"]
