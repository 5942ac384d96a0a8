"""Traces: what a client says goes to the job, stays with it, and stands in the audit and in the log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.typing import EventDict

from api.client import JobClient
from api.trace import TraceContext
from tests.support.daemon import jobd_program
from tests.support.patience import patient
from tests.support.pki import TestPki

ONE = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "rojo=00f067aa0ba902b7,congo=t61")
OTHER = TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")


def in_trace(pki: TestPki, server: str, trace: TraceContext | None) -> AbstractAsyncContextManager[JobClient]:
    return JobClient.connect(server, **pki.credentials("alice"), retry_for=0, trace=trace)


@pytest.fixture
async def client(pki: TestPki, server: str) -> AsyncIterator[JobClient]:
    """A writer, in a trace."""
    with trio.fail_after(patient(30)):
        async with in_trace(pki, server, ONE) as client:
            yield client


async def variables(client: JobClient, **spec: Any) -> dict[str, str]:
    """Those of a trace that a job finds."""
    job = await client.start(["env"], **spec)
    async with client.stream(job.id) as output:
        text = b"".join([chunk.data async for chunk in output]).decode()
    found = dict(line.split("=", 1) for line in text.splitlines())
    return {name: value for name, value in found.items() if name.startswith("TRACE")}


async def test_a_job_is_told_of_its_trace(client: JobClient) -> None:
    """As the standard for environments has it."""
    assert await variables(client) == {"TRACEPARENT": ONE.parent, "TRACESTATE": ONE.state}


@pytest.mark.parametrize("own", [{"TRACEPARENT": "mine"}, {"TRACESTATE": "mine"}], ids=lambda own: next(iter(own)))
@pytest.mark.parametrize("how", ["env", "secrets"])
async def test_what_the_request_gives_wins(client: JobClient, own: dict[str, str], how: str) -> None:
    """A parent of one trace and the state of another would be neither."""
    assert await variables(client, **{how: own}) == own


async def test_the_job_remembers_it(client: JobClient, pki: TestPki, server: str) -> None:
    """For whoever asks, in whatever trace."""
    job = await client.start(["true"])
    assert job.traceparent == ONE.parent
    async with in_trace(pki, server, OTHER) as other:
        assert (await other.query(job.id)).traceparent == ONE.parent
        assert (await other.start(["true"])).traceparent == OTHER.parent
    async with in_trace(pki, server, None) as untraced:
        assert (await untraced.start(["true"])).traceparent == ""


async def test_the_same_request_from_another_trace_is_the_same(client: JobClient, pki: TestPki, server: str) -> None:
    """A trace says who asks, not for what: the job is that of the first."""
    job = await client.start(["true"], request_id="once")
    async with in_trace(pki, server, OTHER) as other:
        again = await other.start(["true"], request_id="once")
    assert (again.id, again.traceparent) == (job.id, ONE.parent)


async def test_the_audit_has_the_trace(
    client: JobClient, pki: TestPki, server: str, log_guard: list[EventDict]
) -> None:
    """Of every call that is made in one."""
    await client.workers()
    async with in_trace(pki, server, None) as untraced:
        await untraced.workers()
    lines = [entry["trace_id"] for entry in log_guard if entry["event"] == "call"]
    assert lines == [ONE.trace_id, None]


@pytest.mark.parametrize("killed", [False, True], ids=["one server", "two servers"])
async def test_the_log_has_the_trace_of_the_job_that_it_speaks_of(pki: TestPki, tmp_path: Path, killed: bool) -> None:
    """And not that of whoever made room for it; a job that a next server took up, too. No two calls have one id."""
    with (
        jobd_program(pki, tmp_path / "state", "--slots", "1", "--max-output", "4") as program,
        trio.fail_after(patient(60)),
    ):
        async with in_trace(pki, program.server, ONE) as one, in_trace(pki, program.server, None) as untraced:
            first = await one.start(["sh", "-c", "read x; printf 1234567890"], attachable=True)
            second = await untraced.start(["printf", "1234567890"])
            if killed:
                while len(program.logged("call")) < 2:  # an answer can be there before its line
                    await trio.sleep(0.01)
                program.kill_server()
        async with JobClient.connect(program.server, **pki.credentials("alice"), trace=OTHER) as other:
            async with other.attach(first.id) as attachment:
                await attachment.send(b"\n")
                async for _ in attachment:
                    pass
            await other.wait(first.id, second.id)
    dropped = [line for line in program.logged() if line["event"].startswith("output cannot be")]
    assert {line["job"]: line.get("trace_id") for line in dropped} == {first.id: ONE.trace_id, second.id: None}
    assert not [line for line in dropped if "call_id" in line]
    ids = [line["call_id"] for line in program.logged("call")]
    assert len(set(ids)) == len(ids) > 3, "of two servers, too"
