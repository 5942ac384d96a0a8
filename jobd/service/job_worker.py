"""``jobworker.v1.JobWorkerService``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Final, Protocol

from api import messages as m
from api import methods
from api.protobuf import encode, new
from api.rpc.handlers import Answer, at_once
from api.rpc.server import Handler, ServerCall, server_stream, unary
from jobd.broker.broker import Broker
from jobd.service import translate as t
from jobd.service.attach import first_of, serve_attachment
from jobd.service.listener import Listener
from jobd.worker.errors import JobNotFoundError, JobRunsAgainError, NoPoolError, RunLostError
from jobd.worker.job import Job, JobSpec

MAX_WAIT: Final = 1000
"""The most jobs that one Wait may name."""
KEPT: Final = 64
MAX_KEPT: Final = 8 * 1024
"""Answers to queries that are kept, and the bytes of the longest."""


class JobWorkerService:
    """The methods. Authentication, authorization and audit are done before; errors are translated after."""

    def __init__(self, broker: Broker, heartbeat: float, *, pooled: bool = False) -> None:
        """
        Args:
            heartbeat: seconds after which a quiet stream gets a sign of life.
            pooled: there is a pool, to run again what is lost here.
        """
        self._broker = broker
        self._heartbeat = heartbeat
        self._pooled = pooled
        self._answers = _Answers()

    def handlers(self) -> dict[str, Handler]:
        """The handler for each path."""
        return {
            methods.START.path: unary(self.start),
            methods.STOP.path: unary(self.stop),
            methods.SIGNAL.path: unary(self.signal),
            methods.DELETE.path: unary(self.delete),
            methods.QUERY.path: at_once(self.query_at_once),
            methods.STREAM.path: server_stream(self.stream),
            methods.ATTACH.path: self.attach,
            methods.LIST.path: unary(self.list),
            methods.WAIT.path: unary(self.wait),
            methods.LIST_WORKERS.path: unary(self.list_workers),
            **{method.path: no_pool for method in (methods.DRAIN, methods.UNDRAIN, methods.FORGET)},
        }

    async def start(self, call: ServerCall, request: m.StartRequest) -> m.StartResponse:
        return await start_at(self._broker, call, request)

    async def stop(self, call: ServerCall, request: m.StopRequest) -> m.StopResponse:
        call.job_id = request.job_id
        job = await self._broker.stop(request.job_id, t.stop_of(request, caller_of(call)))
        return new(m.StopResponse, job=t.job_message(self._final(job)))

    async def signal(self, call: ServerCall, request: m.SignalRequest) -> m.SignalResponse:
        call.job_id = request.job_id
        job = await self._broker.signal(request.job_id, t.signal_of(request), by=caller_of(call))
        return new(m.SignalResponse, job=t.job_message(job))

    async def delete(self, call: ServerCall, request: m.DeleteRequest) -> m.DeleteResponse:
        call.job_id = request.job_id
        await self._broker.delete(request.job_id)
        return m.DeleteResponse()

    def query_at_once(self, call: ServerCall, request: m.QueryRequest) -> bytes | Callable[[], Awaitable[Answer]]:
        call.job_id = request.job_id
        job = self._broker.query_at_once(request.job_id)
        return partial(self.query, call, request) if job is None else self._answers.to_query(self._final(job))

    async def query(self, call: ServerCall, request: m.QueryRequest) -> m.QueryResponse:
        call.job_id = request.job_id
        job = await self._broker.query(request.job_id)
        return new(m.QueryResponse, job=t.job_message(self._final(job)))

    def _final(self, job: Job) -> Job:
        """The job, unless the pool is about to say something else of it."""
        if self._pooled and job.runs_again:
            raise JobRunsAgainError(job.id)
        return job

    async def stream(self, call: ServerCall, request: m.StreamRequest) -> None:
        call.job_id = request.job_id
        source = t.source_of(request)
        start = t.start_of(request)
        follower, cell = await self._broker.follow(request.job_id, start, request.attempt)
        try:
            call.start_response()
            if cell.job.attempt:
                await call.send(t.heartbeat_message(follower.offset, cell.job.attempt))
            listener = Listener(call, follower, self._heartbeat, source)
            while (events := await listener.receive()) is None or events:
                if events is None:
                    await call.send(t.heartbeat_message(follower.offset, cell.job.attempt))
                else:
                    await call.send_all([t.event_message(event) for event in events])
        except JobNotFoundError as exc:  # deleted meanwhile
            if self._pooled and cell.job.runs_again:
                raise RunLostError(cell.job.id) from exc
            raise
        finally:
            follower.close()
        ended = await cell.ended()
        if self._pooled and ended.runs_again:
            raise RunLostError(ended.id)
        await call.send(t.verdict_message(ended))

    async def attach(self, call: ServerCall, start: m.AttachStart | None = None) -> None:
        """
        Args:
            start: the first message of the call, if it was read already.
        """
        assert call.principal is not None  # as above
        await serve_attachment(call, self._broker, self._heartbeat, call.principal, start or await first_of(call))

    async def list(self, call: ServerCall, request: m.ListRequest) -> m.ListResponse:
        before, size, states = t.page_of(request)
        rows = await self._broker.page(before=before, states=states, size=size + 1)
        more = len(rows) > size
        jobs = [t.abridged_message(job) for _, job in rows[:size]]
        return m.ListResponse(jobs, t.page_token(rows[size - 1][0]) if more else "")

    async def wait(self, call: ServerCall, request: m.WaitRequest) -> m.WaitResponse:
        return await wait_at(self._broker, call, request)

    async def list_workers(self, call: ServerCall, request: m.ListWorkersRequest) -> m.ListWorkersResponse:
        workers = [t.worker_message(view) for view in self._broker.workers()]
        return m.ListWorkersResponse(workers, self._broker.pending)


class _Answers:
    """Answers to queries as they go on the wire. A job that has ended, and is the same as at the last time, is not
    written down again; the store keeps few of those, and so do we."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[Job, bytes]] = OrderedDict()

    def to_query(self, job: Job) -> bytes:
        """The answer to who asked for this job."""
        known, answer = self._known.get(job.id, (None, b""))
        if known is not job:
            answer = encode(new(m.QueryResponse, job=t.job_message(job)))
            if job.state.terminal and len(answer) <= MAX_KEPT:
                self._known[job.id] = job, answer
                if len(self._known) > KEPT:
                    self._known.popitem(last=False)
        return answer


class Jobs(Protocol):
    """Where jobs are: a broker, or a pool of them."""

    async def start(self, spec: JobSpec, *, by: str, roles: Collection[str], request_id: str) -> Job: ...

    async def wait(self, references: Sequence[str], *, any_of_them: bool) -> list[Job]: ...


async def start_at(jobs: Jobs, call: ServerCall, request: m.StartRequest) -> m.StartResponse:
    """Answer a Start."""
    assert call.principal is not None  # authorization lets nobody else through
    job = await jobs.start(
        t.spec_of(request, call.trace),
        by=call.principal.name,
        roles=call.principal.roles,
        request_id=t.request_id_of(request),
    )
    call.job_id = job.id
    return new(m.StartResponse, job=t.job_message(job))


async def wait_at(jobs: Jobs, call: ServerCall, request: m.WaitRequest) -> m.WaitResponse:
    """Answer a Wait."""
    if not 1 <= len(request.job_ids) <= MAX_WAIT:
        raise t.refuse("job_ids", f"names no job, or more than {MAX_WAIT}")
    call.job_id = ",".join(request.job_ids[:10])
    ended = await jobs.wait(request.job_ids, any_of_them=t.waits_for_any(request))
    return new(m.WaitResponse, jobs=[t.abridged_message(job) for job in ended])


async def no_pool(call: ServerCall) -> None:
    """Answer what is about a pool, where there is none."""
    raise NoPoolError


def caller_of(call: ServerCall) -> str:
    """Who calls, or for whom."""
    assert call.principal is not None  # authorization lets nobody else through
    return call.principal.name
