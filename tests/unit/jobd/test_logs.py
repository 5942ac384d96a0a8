"""What a line of the log says beside what was said: of which call, job and trace."""

from __future__ import annotations

import json
import warnings
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import structlog
import trio
from structlog.typing import EventDict

from api import methods
from api.call_context import CURRENT, CallContext
from api.errors import InternalError
from api.messages import QueryRequest, QueryResponse
from api.rpc.handlers import Handler, at_once, router, stack, unary
from api.rpc.server import ServerCall
from jobd import logs
from jobd.launcher.local import LocalLauncher, LocalProcess
from jobd.limits.walk import Walk
from jobd.middleware.audit import audit_lines
from jobd.middleware.outcomes import observed
from jobd.output.log import LogStore
from jobd.worker.job import JobSpec
from jobd.worker.worker import Worker
from tests.support.rig import rig

PATH = methods.QUERY.path


def said() -> EventDict:
    """A line, as it would be written here."""
    line = structlog.contextvars.merge_contextvars(None, "info", {"event": "x"})
    return logs.about_the_call(None, "info", cast("EventDict", line))


async def fail(call: ServerCall, request: QueryRequest) -> QueryResponse:
    call.job_id = request.job_id
    raise ValueError("nobody expected it")


def fail_at_once(call: ServerCall, request: QueryRequest) -> QueryResponse:
    call.job_id = request.job_id
    raise ValueError("nobody expected it")


def fail_later(call: ServerCall, request: QueryRequest) -> Callable[[], Awaitable[QueryResponse]]:
    return partial(fail, call, request)


@pytest.mark.parametrize("handler", [at_once(fail_at_once), at_once(fail_later), unary(fail)])
async def test_a_line_of_a_call_and_its_audit_line_have_the_same_id(
    handler: Handler, errors_expected: list[EventDict]
) -> None:
    """And the job that the handler has found; the next call has another id."""
    lines: list[str] = []
    found: list[EventDict] = []

    def keep(logger: object, method: str, event: EventDict) -> EventDict:
        found.append(dict(event))
        return event

    before = structlog.get_config()
    structlog.configure(processors=[logs.about_the_call, keep, *before["processors"]])
    async with rig(stack([observed([audit_lines(lines.append)])], router({PATH: handler}))) as r:
        for job in ("one", "two"):
            with pytest.raises(InternalError):
                await r.channel.unary(methods.QUERY, QueryRequest(job))
    audited = [json.loads(f"{{{line}}}") for line in lines]
    assert [line["job"] for line in audited] == ["one", "two"]
    assert audited[0]["call_id"] != audited[1]["call_id"]
    assert [(line["call_id"], line["job"]) for line in found] == [(line["call_id"], line["job"]) for line in audited]
    assert len(errors_expected) == 0  # until the test is over


async def test_a_line_is_of_its_own_call_alone() -> None:
    """Of two that wait at the same time; and of none, afterwards, though it was begun in one."""
    gates = {"one": trio.Event(), "two": trio.Event()}
    lines: dict[str, EventDict] = {}
    later: list[EventDict] = []

    async def outlives() -> None:
        await gates["two"].wait()
        later.append(said())

    async with trio.open_nursery() as nursery:

        async def wait(call: ServerCall, request: QueryRequest) -> QueryResponse:
            call.job_id = request.job_id
            if request.job_id == "one":
                nursery.start_soon(outlives)
            await gates[request.job_id].wait()
            lines[request.job_id] = said()
            return QueryResponse()

        async with rig(router({PATH: unary(wait)})) as r, trio.open_nursery() as calls:
            for job in gates:
                calls.start_soon(r.channel.unary, methods.QUERY, QueryRequest(job))
            await trio.testing.wait_all_tasks_blocked()
            gates["one"].set()
            await trio.testing.wait_all_tasks_blocked()
            gates["two"].set()
    assert (lines["one"]["job"], lines["two"]["job"]) == ("one", "two")
    assert lines["one"]["call_id"] != lines["two"]["call_id"]
    assert later == [{"event": "x"}]
    assert said() == {"event": "x"}


def test_what_the_line_says_itself_stays() -> None:
    """And what a client calls its jobs is cut."""
    call = CallContext("trace")
    call.job_id = "x" * 10_000
    before = CURRENT.set(call)
    assert said() == {"event": "x", "call_id": call.id, "trace_id": "trace", "job": "x" * logs.MAX_SHOWN}
    line = {"event": "x", "job": "another", "trace_id": "other"}
    assert logs.about_the_call(None, "info", dict(line)) == {**line, "call_id": call.id}
    CURRENT.reset(before)


async def test_what_is_said_of_a_job_while_it_is_supervised_has_its_id(tmp_path: Path) -> None:
    """And nothing of the call that started it."""
    found: list[EventDict] = []

    class Looking(LocalLauncher):
        async def launch(self, job_id: str, spec: JobSpec) -> LocalProcess:
            found.append(said())
            return await super().launch(job_id, spec)

    CURRENT.set(CallContext())
    async with trio.open_nursery() as nursery:
        worker = Worker(nursery, Looking(Walk()), LogStore(tmp_path))
        job = await worker.wait((await worker.start(JobSpec(("true",)))).id)
        nursery.cancel_scope.cancel()
    assert found == [{"event": "x", "job": job.id}]


def test_a_warning_of_pythons_is_a_line_of_the_log(log_guard: list[EventDict]) -> None:
    """So that everything on stderr has one form; what any client could bring about is not said at all."""
    before = structlog.get_config()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure("info")
        structlog.configure(**before)
        warnings.warn("something is old", DeprecationWarning, stacklevel=1)
        warnings.warn("Attribute's length must be >= 1 and <= 64, but it was 10000", stacklevel=1)
    assert [line["text"] for line in log_guard] == ["something is old"]
