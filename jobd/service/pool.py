"""``jobworker.v1.JobWorkerService`` as a broker of a pool answers it.

What is about a job that a worker has goes to that worker, on behalf of whoever called. It is answered here when that
is this machine, or when another broker has handed it on: then it goes no further. All else is answered from the pool.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import betterproto
import structlog
import trio

from api import messages as m
from api import methods
from api.background import background_nursery
from api.errors import NotFoundError, RpcError
from api.protobuf import new
from api.rpc.server import Handler, ServerCall, unary
from jobd.broker.pooled import Machines, Member, Placed, Pool
from jobd.service import translate as t
from jobd.service.attach import first_of
from jobd.service.job_worker import JobWorkerService, caller_of, start_at, wait_at
from jobd.worker.errors import (
    JobEndedError,
    JobNotFoundError,
    JobNotRunningError,
    NotAttachableError,
    RunLostError,
    WorkerGoneError,
)

log = structlog.get_logger(__name__)

ASK: Final = 2.0
"""Seconds that a list waits for what a worker says of its jobs."""
SOON: Final = 0.1
"""Seconds after which the pool is asked again about a job whose worker went."""
AT_ONCE: Final = 16
"""Workers, or jobs, that are asked about at a time."""


Request = TypeVar("Request", bound=betterproto.Message)
Here = Callable[[ServerCall, Request], Awaitable[betterproto.Message]]


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """How other machines are asked, on behalf of whoever called.

    Attributes:
        forward: hand on a call with one request, and its answers, to this worker at this address.
        converse: the same for a call in which both sides speak; what the caller said first was read.
        ask: ask something beside the call, and give the answer.
    """

    forward: Callable[[ServerCall, str, str, betterproto.Message], Awaitable[None]]
    converse: Callable[[ServerCall, str, str, m.AttachRequest], Awaitable[None]]
    ask: Callable[[ServerCall, str, str, betterproto.Message], Awaitable[betterproto.Message]]


class PoolService:
    """The methods; otherwise as :class:`jobd.service.job_worker.JobWorkerService`."""

    def __init__(
        self, name: str, local: JobWorkerService, pool: Pool, machines: Machines, elsewhere: Elsewhere
    ) -> None:
        """
        Args:
            name: of this machine's worker; "" when it is none.
            local: answers for it.
        """
        self._name = name
        self._local = local
        self._pool = pool
        self._machines = machines
        self._elsewhere = elsewhere

    def handlers(self) -> dict[str, Handler]:
        """The handler for each path."""
        mine: dict[str, Handler] = {
            methods.START.path: unary(self.start),
            methods.STOP.path: self.stop,
            methods.SIGNAL.path: self.signal,
            methods.DELETE.path: unary(self.delete),
            methods.QUERY.path: self.query,
            methods.STREAM.path: self.stream,
            methods.ATTACH.path: self.attach,
            methods.LIST.path: unary(self.list),
            methods.WAIT.path: unary(self.wait),
            methods.LIST_WORKERS.path: unary(self.list_workers),
            methods.DRAIN.path: unary(self.drain),
            methods.UNDRAIN.path: unary(self.undrain),
            methods.FORGET.path: unary(self.forget),
        }
        local = self._local.handlers()
        return {path: _here_when_handed_on(local[path], handler) for path, handler in mine.items()}

    # ---- jobs come in

    async def start(self, call: ServerCall, request: m.StartRequest) -> m.StartResponse:
        return await start_at(self._pool, call, request)

    # ---- about one job

    async def query(self, call: ServerCall) -> None:
        request = await call.receive()
        assert isinstance(request, m.QueryRequest)
        placed = await self._pool.find(request.job_id)
        call.job_id = placed.job.id
        while placed.worker and not placed.unreachable and not placed.job.state.terminal:
            try:
                await self._at_worker(call, placed, m.QueryRequest(placed.job.id), self._local.query)
            except WorkerGoneError:
                if call.response_started:  # an answer that has begun cannot begin again
                    raise
                await trio.sleep(SOON)  # some broker is about to say so of the job
                placed = await self._pool.find(placed.job.id)
            else:
                return
        await call.answer(new(m.QueryResponse, job=t.job_message(placed.job)))

    async def stop(self, call: ServerCall) -> None:
        request = await call.receive()
        assert isinstance(request, m.StopRequest)
        how = t.stop_of(request, caller_of(call))
        placed = await self._pool.find(request.job_id)
        call.job_id = request.job_id = placed.job.id
        while not (placed.worker or placed.job.state.terminal):
            job = await self._pool.stop_unclaimed(placed, how.by)
            placed = Placed(job) if job else await self._pool.find(placed.job.id)
        if placed.job.state.terminal:
            await call.answer(new(m.StopResponse, job=t.job_message(placed.job)))
        else:
            await self._at_worker(call, placed, request, self._local.stop)

    async def signal(self, call: ServerCall) -> None:
        request = await call.receive()
        assert isinstance(request, m.SignalRequest)
        t.signal_of(request)  # what is wrong with it is said wherever the job is
        placed = await self._pool.find(request.job_id)
        call.job_id = request.job_id = placed.job.id
        if placed.job.state.terminal or not placed.worker:
            raise JobNotRunningError(placed.job.id, placed.job.state)
        await self._at_worker(call, placed, request, self._local.signal)

    async def stream(self, call: ServerCall) -> None:
        request = await call.receive()
        assert isinstance(request, m.StreamRequest)
        call.start_response()
        placed = await self._pool.claimed(request.job_id)
        call.job_id = request.job_id = placed.job.id
        if not placed.worker:  # it ended before anybody had it: there is no output
            if request.attempt is not None and request.attempt != placed.job.attempt:
                raise RunLostError(placed.job.id)
            await call.send(t.verdict_message(placed.job))
        elif placed.worker == self._name:
            await self._local.stream(call, request)
        else:
            await self._elsewhere.forward(call, placed.worker, placed.address, request)

    async def attach(self, call: ServerCall) -> None:
        start = await first_of(call)
        placed = await self._pool.find(start.job_id)  # to one that has no stdin nobody attaches, however long they wait
        if placed.job.spec.attachable:
            placed = await self._pool.claimed(placed.job.id)
        call.job_id = start.job_id = placed.job.id
        if not placed.job.spec.attachable:
            raise NotAttachableError(placed.job.id)
        if placed.job.state.terminal:
            raise JobEndedError(placed.job.id, placed.job.state)
        if placed.worker == self._name:
            await self._local.attach(call, start)
        else:
            await self._elsewhere.converse(call, placed.worker, placed.address, m.AttachRequest(start=start))

    async def delete(self, call: ServerCall, request: m.DeleteRequest) -> m.DeleteResponse:
        placed = await self._pool.find(request.job_id)
        call.job_id = request.job_id = placed.job.id
        if placed.worker and placed.job.state.terminal:
            await self._delete_output(call, placed, request)
        await self._pool.delete(placed)
        return m.DeleteResponse()

    async def _delete_output(self, call: ServerCall, placed: Placed, request: m.DeleteRequest) -> None:
        try:
            if placed.worker == self._name:
                await self._local.delete(call, request)
            else:
                await self._elsewhere.ask(call, placed.worker, placed.address, request)
        except (NotFoundError, JobNotFoundError):
            pass  # it was deleted before

    async def _at_worker(self, call: ServerCall, placed: Placed, request: Request, here: Here[Request]) -> None:
        """Have the worker answer a short call.

        Raises:
            WorkerGoneError: it is not heard of (any more). A machine that hangs would keep its callers as long as a
                connection can live without a sign of life.
        """
        if placed.worker == self._name:
            await call.answer(await here(call, request))
            return
        answered = False
        async with background_nursery() as nursery:

            async def watch() -> None:
                await self._machines.gone(placed.worker)
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            await self._elsewhere.forward(call, placed.worker, placed.address, request)
            answered = True
        if not answered:
            raise WorkerGoneError(placed.worker)

    # ---- about many

    async def wait(self, call: ServerCall, request: m.WaitRequest) -> m.WaitResponse:
        return await wait_at(self._pool, call, request)

    async def list(self, call: ServerCall, request: m.ListRequest) -> m.ListResponse:
        before, size, states = t.page_of(request)
        rows = await self._pool.page(before=before, states=states, size=size + 1)
        more = len(rows) > size
        told = await self._told(call, [placed for _, placed in rows[:size]])
        # One that its worker said nothing of (it is unreachable, or has more than it tells of) may be in any state in
        # which a worker has jobs: the pool found it for one of those.
        jobs = [
            told.get(placed.job.id) or t.abridged_message(placed.job)
            for _, placed in rows[:size]
            if not states or placed.job.id not in told or told[placed.job.id].state in map(t.TO_STATE.get, states)
        ]
        return m.ListResponse(jobs, t.page_token(rows[size - 1][0]) if more else "")

    async def _told(self, call: ServerCall, placed: Sequence[Placed]) -> dict[str, m.Job]:
        """What their workers say of those that are at work, by id."""
        at_work = [each for each in placed if each.worker and not (each.job.state.terminal or each.unreachable)]
        workers = await self._asked(call, {(each.worker, each.address) for each in at_work})
        asked = {each.job.id for each in at_work}
        return {job.id: job for worker in workers.values() for job in worker.jobs if job.id in asked}

    async def list_workers(self, call: ServerCall, request: m.ListWorkersRequest) -> m.ListWorkersResponse:
        members = self._machines.members()
        told = await self._asked(call, {(each.name, each.address) for each in members if each.there})
        workers = [_worker_message(member, told.get(member.name)) for member in members]
        return m.ListWorkersResponse(workers, self._machines.pending)

    async def _asked(self, call: ServerCall, machines: set[tuple[str, str]]) -> dict[str, m.Worker]:
        """What these workers say of themselves; those that do not say it soon are left out."""
        told: dict[str, m.Worker] = {}
        limit = trio.CapacityLimiter(AT_ONCE)

        async def ask(name: str, address: str) -> None:
            async with limit:
                try:
                    with trio.fail_after(ASK):
                        answer = await self._ask(call, name, address)
                except (RpcError, trio.TooSlowError) as exc:
                    log.info("a worker did not say what it has", worker=name, error=str(exc))
                    return
            if answer.workers:
                told[name] = m.Worker(
                    name,
                    jobs=[job for worker in answer.workers for job in worker.jobs],
                    running=sum(worker.running for worker in answer.workers),
                    weaknesses=answer.workers[0].weaknesses,
                )

        async with trio.open_nursery() as nursery:
            for name, address in machines:
                nursery.start_soon(ask, name, address)
        return told

    async def _ask(self, call: ServerCall, name: str, address: str) -> m.ListWorkersResponse:
        if name == self._name:
            return await self._local.list_workers(call, m.ListWorkersRequest())
        answer = await self._elsewhere.ask(call, name, address, m.ListWorkersRequest())
        assert isinstance(answer, m.ListWorkersResponse)
        return answer

    # ---- the pool itself

    async def drain(self, call: ServerCall, request: m.DrainRequest) -> m.DrainResponse:
        await self._machines.drain(request.worker, by=caller_of(call))
        return m.DrainResponse()

    async def undrain(self, call: ServerCall, request: m.UndrainRequest) -> m.UndrainResponse:
        await self._machines.undrain(request.worker)
        return m.UndrainResponse()

    async def forget(self, call: ServerCall, request: m.ForgetRequest) -> m.ForgetResponse:
        call.job_id = request.job_id
        return new(m.ForgetResponse, job=t.job_message(await self._pool.forget(request.job_id, by=caller_of(call))))


def _here_when_handed_on(here: Handler, handler: Handler) -> Handler:
    async def handle(call: ServerCall) -> None:
        await (here if call.broker else handler)(call)

    return handle


def _silent(member: Member) -> str:
    """What people see of a machine that is there, by its session, and that this broker cannot ask."""
    return (
        f"it does not answer this broker at {member.address}, its --advertise; its jobs go on, and can be neither "
        "stopped nor streamed from here; the broker's log says why"
    )


def _worker_message(member: Member, told: m.Worker | None) -> m.Worker:
    standing = m.WorkerStanding.DRAINING if member.drained else m.WorkerStanding.UNSPECIFIED
    return m.Worker(
        member.name,
        member.slots,
        member.containment,
        told.jobs[: t.MAX_JOBS_OF_WORKER] if told else [],
        told.running if told else member.taken,
        told.weaknesses if told else [_silent(member)] if member.there else [],
        list(member.limits),
        list(member.isolation),
        member.address,
        dict(member.labels),
        member.version,
        m.WorkerStanding(standing if member.there else m.WorkerStanding.GONE),
    )
