"""Who may do what: every method, every kind of principal, over the wire; and the audit line of every call."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import betterproto
import pytest
import trio
from cryptography import x509
from structlog.typing import EventDict

from api.address import parse_address
from api.errors import Code, NotFoundError, PermissionDeniedError, RpcError, UnimplementedError
from api.identity import Role
from api.messages import JobSpec, JobState, QueryRequest, StartRequest
from api.methods import METHODS, QUERY, START, WATCH, AnyMethod, Cardinality, Method
from api.rpc.channel import Channel, open_channel
from jobd.broker.broker import Broker
from jobd.service.health import HealthService
from jobd.service.job_worker import JobWorkerService
from jobd.service.reflection import ReflectionService
from tests.integration.conftest import Connect
from tests.support.patience import patient
from tests.support.pki import TestPki

READING = {"Query", "Stream", "List", "Wait", "ListWorkers", "Check", "Watch", "ServerReflectionInfo"}
WRITING = {"Start", "Stop", "Signal", "Attach", "Delete", "Drain", "Undrain", "Forget"}
MAY = {"alice": READING | WRITING, "rita": READING, "both": READING | WRITING, "nobody": set[str]()}
"""The policy once more, by name: a change of the table of methods must be made here too."""
NO_JOB = "00000000-0000-4000-8000-000000000000"


@asynccontextmanager
async def channel_of(pki: TestPki, server: str, name: str) -> AsyncIterator[Channel]:
    """A connection as one of the test clients."""
    with trio.fail_after(patient(20)):
        async with open_channel(*parse_address(server), pki.context(name)) as channel:
            yield channel


async def outcome(channel: Channel, method: AnyMethod, request: betterproto.Message | None = None) -> RpcError | None:
    """How a call (with an empty request, unless one is given) begins: its error, or None."""
    try:
        async with channel.call(method, method.request() if request is None else request) as answers:
            await answers.receive()
            # What is streamed need not end by itself; all that is judged here is how it begins.
            if method.cardinality is not Cardinality.UNARY_STREAM:
                await answers.receive()
    except RpcError as exc:
        return exc
    return None


def like(method: Method[Any, Any], *, service: str | None = None, name: str | None = None) -> AnyMethod:
    """A method, perhaps with another service or name."""
    return dataclasses.replace(method, service=service or method.service, name=name or method.name)


def audit_lines(log: list[EventDict]) -> list[EventDict]:
    """The audit's lines, in order."""
    return [entry for entry in log if entry["event"] == "call"]


# ---- the table


def test_the_table_is_the_policy() -> None:
    """The table of methods asks for exactly the roles that this file has in words."""
    assert {method.name for method in METHODS if method.role is Role.READER} == READING
    assert {method.name for method in METHODS if method.role is Role.WRITER} == WRITING


def test_every_method_has_a_handler_and_every_handler_a_method() -> None:
    """Nothing is served that the table does not have, and nothing stands in the table that is not served."""
    service = JobWorkerService(
        cast(Broker, None), heartbeat=15
    )  # making the table of handlers asks nothing of the broker
    served = [*service.handlers(), *HealthService([]).handlers(), *ReflectionService().handlers()]
    assert sorted(served) == sorted(method.path for method in METHODS)


def test_the_table_has_unary_and_streaming_methods() -> None:
    """Both cardinalities go through the tests below."""
    assert {method.cardinality for method in METHODS} == set(Cardinality)


@pytest.mark.parametrize("name", MAY)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.path)
async def test_a_method_is_for_those_whom_the_table_names(
    pki: TestPki, server: str, log_guard: list[EventDict], method: AnyMethod, name: str
) -> None:
    """Allowed calls get to the handler, whatever it thinks of an empty request; others are PERMISSION_DENIED."""
    async with channel_of(pki, server, name) as channel:
        error = await outcome(channel, method)
        while not audit_lines(log_guard):  # the call that does not end by itself is given up, which the server hears of
            await trio.sleep(0.001)
    (line,) = audit_lines(log_guard)
    assert line["method"] == method.path
    if method is WATCH and name != "nobody":
        assert (error, line["status"]) == (None, "CANCELLED")
    elif method.name in MAY[name]:
        assert error is None or error.code in (Code.INVALID_ARGUMENT, Code.NOT_FOUND) or error.reason == "NO_POOL"
        assert line["status"] == (error.code if error else Code.OK).name
    else:
        assert isinstance(error, PermissionDeniedError)
        assert error.reason == ("ROLE_MISSING" if MAY[name] else "NO_ROLE")
        assert name in error.message
        assert line["status"] == "PERMISSION_DENIED"


async def test_a_refusal_says_which_role_is_missing(pki: TestPki, server: str) -> None:
    """The message has the method, the role it needs and the roles that the certificate gives; so has the metadata."""
    async with channel_of(pki, server, "rita") as channel:
        error = await outcome(channel, like(START))
    assert error is not None
    assert error.message == "rita may not call Start: it needs the role writer, and the certificate gives reader"
    assert error.metadata["needed"] == "writer"


async def test_a_refused_start_starts_nothing(connect: Connect) -> None:
    """A reader's Start is refused before anything is recorded."""
    async with connect("rita") as client:
        with pytest.raises(PermissionDeniedError):
            await client.start(["true"])
        assert [job async for job in client.list()] == []


@pytest.mark.parametrize("ask", ["stop", "signal"])
async def test_a_refused_stop_leaves_the_job_alone(connect: Connect, ask: str) -> None:
    """A reader can see a writer's job, and do nothing to it."""
    async with connect() as alice, connect("rita") as rita:
        job = await alice.start(["sleep", "1000"])
        with pytest.raises(PermissionDeniedError):
            await (rita.stop(job.id) if ask == "stop" else rita.signal(job.id, 15))
        assert (await rita.query(job.id)).state == JobState.RUNNING
        assert (await alice.stop(job.id)).state == JobState.STOPPED


async def test_permission_comes_before_existence(connect: Connect) -> None:
    """Who may not stop is not told whether there is such a job."""
    async with connect() as alice, connect("rita") as rita:
        job = await alice.start(["true"])
        messages = []
        for job_id in (job.id, NO_JOB, "no id at all"):
            with pytest.raises(PermissionDeniedError) as caught:
                await rita.stop(job_id)
            messages.append(caught.value.message)
    assert len(set(messages)) == 1


async def test_a_refusal_does_not_end_the_connection(connect: Connect) -> None:
    """After a PERMISSION_DENIED the next call goes over the same connection."""
    async with connect("rita") as client:
        before = await client.channel()
        with pytest.raises(PermissionDeniedError):
            await client.start(["true"])
        await client.workers()
        assert await client.channel() is before


# ---- what is not in the table


@pytest.mark.parametrize("name", MAY)
async def test_an_unknown_method_is_unimplemented_for_those_with_a_role(pki: TestPki, server: str, name: str) -> None:
    """Those with a role learn that there is no such method; those without learn nothing."""
    async with channel_of(pki, server, name) as channel:
        error = await outcome(channel, like(START, name="Restart"))
    if MAY[name]:
        assert isinstance(error, UnimplementedError)
        assert error.reason == "UNKNOWN_METHOD"
        assert "/jobworker.v1.JobWorkerService/Restart" in error.message
    else:
        assert isinstance(error, PermissionDeniedError)
        assert error.reason == "NO_ROLE"


@pytest.mark.parametrize("service", ["jobworker.v2.JobWorkerService", "grpc.health.v1.Health", "x"])
async def test_an_unknown_service_is_unimplemented(pki: TestPki, server: str, service: str) -> None:
    """A known name in another service is no method."""
    async with channel_of(pki, server, "alice") as channel:
        assert isinstance(await outcome(channel, like(START, service=service)), UnimplementedError)


VARIANTS = [
    {"name": "start"},
    {"name": "START"},
    {"name": "Start%20"},
    {"name": "%53tart"},
    {"name": "Start?role=writer"},
    {"name": "Start#"},
    {"name": "Start;"},
    {"name": "Start."},
    {"name": "Start\u00e9"},
    {"name": "Start/"},
    {"name": "./Start"},
    {"name": "../JobWorkerService/Start"},
    {"service": "/jobworker.v1.JobWorkerService"},
    {"service": "jobworker.v1.jobworkerservice"},
    {"service": "JOBWORKER.V1.JOBWORKERSERVICE"},
    {"service": "jobworker.v1.JobWorkerService."},
    {"service": "JobWorkerService"},
]


@pytest.mark.parametrize("name", ["alice", "rita", "nobody"])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "/".join(variant.values()))
async def test_another_spelling_of_a_method_gets_around_nothing(
    pki: TestPki, server: str, connect: Connect, variant: dict[str, str], name: str
) -> None:
    """Only the exact path is the method: every other one is refused, and nothing is started, for a writer either."""
    request = StartRequest(JobSpec(argv=["true"]))
    async with channel_of(pki, server, name) as channel:
        error = await outcome(channel, like(START, **variant), request)
        assert error is not None
        assert error.code in (Code.UNIMPLEMENTED, Code.PERMISSION_DENIED, Code.INTERNAL, Code.CANCELLED, Code.UNKNOWN)
    async with connect() as alice:
        assert [job async for job in alice.list()] == []


# ---- the audit


@pytest.mark.parametrize(
    ("name", "roles"),
    [("alice", ["writer"]), ("rita", ["reader"]), ("both", ["reader", "writer"]), ("nobody", [])],
)
async def test_the_audit_says_who_called_from_where(
    pki: TestPki, server: str, log_guard: list[EventDict], name: str, roles: list[str]
) -> None:
    """Principal and roles from the certificate, and the address that the call came from; refused calls as well."""
    async with channel_of(pki, server, name) as channel:
        await outcome(channel, like(START))
    (line,) = audit_lines(log_guard)
    assert (line["principal"], line["roles"]) == (name, roles)
    certificate = x509.load_pem_x509_certificate(pki.certificate(name).read_bytes())
    assert line["serial"] == f"{certificate.serial_number:x}"
    assert re.fullmatch(r"127\.0\.0\.1:[0-9]+", line["peer"])
    assert line["log_level"] == "info"
    assert 0 <= line["seconds"] < 20


async def test_the_audit_names_the_job(connect: Connect, log_guard: list[EventDict]) -> None:
    """Every call about a job has its id in its line, the Start that made it included."""
    async with connect() as client:
        job = await client.start(["true"])
        await client.query(job.id)
        await client.wait(job.id)
        async with client.stream(job.id) as output:
            async for _ in output:
                pass
        await client.stop(job.id)
        assert [line["job"] for line in audit_lines(log_guard)] == [job.id] * 5
        await client.workers()
    assert audit_lines(log_guard)[-1]["job"] is None


async def test_the_audit_has_the_status_of_a_call_that_failed(connect: Connect, log_guard: list[EventDict]) -> None:
    """What the caller was told is what the line says."""
    async with connect() as client:
        with pytest.raises(NotFoundError):
            await client.query(NO_JOB)
    (line,) = audit_lines(log_guard)
    assert (line["method"], line["status"]) == ("/jobworker.v1.JobWorkerService/Query", "NOT_FOUND")
    assert line["job"] == NO_JOB


async def test_the_audit_has_calls_of_unknown_methods(pki: TestPki, server: str, log_guard: list[EventDict]) -> None:
    """The path that was asked for is in the line, escaped and cut, so that a log cannot be forged or flooded."""
    async with channel_of(pki, server, "alice") as channel:
        await outcome(channel, like(START, name="X" * 5000))
    (line,) = audit_lines(log_guard)
    assert line["status"] == "UNIMPLEMENTED"
    assert line["method"].startswith("'/jobworker.v1.JobWorkerService/XXX")
    assert len(line["method"]) < 300


async def test_the_audit_has_calls_that_were_given_up(connect: Connect, log_guard: list[EventDict]) -> None:
    """A stream that its reader leaves ends as CANCELLED."""
    async with connect() as client:
        job = await client.start(["sh", "-c", "echo here; exec sleep 1000"])
        async with client.stream(job.id) as output:
            await anext(output)
        await client.stop(job.id)  # on the same connection, so what came before it is done
    line = next(line for line in audit_lines(log_guard) if line["method"].endswith("/Stream"))
    assert (line["status"], line["job"], line["principal"]) == ("CANCELLED", job.id, "alice")


@pytest.mark.parametrize("secret", [lambda job_spec: job_spec.env["TOKEN"], lambda job_spec: job_spec.argv[1]])
async def test_the_log_has_no_secrets(
    connect: Connect, log_guard: list[EventDict], secret: Callable[[JobSpec], str]
) -> None:
    """Arguments and environment of a job are nobody's business who reads the log."""
    async with connect() as client:
        job = await client.start(["true", "argument-b7f3"], env={"TOKEN": "variable-c9d1"})
        await client.wait(job.id)
    assert secret(job.spec) not in repr(log_guard)


async def test_an_audit_line_is_short_whatever_is_asked_for(
    pki: TestPki, server: str, log_guard: list[EventDict]
) -> None:
    """A reader's message of a megabyte is not a megabyte of log."""
    async with channel_of(pki, server, "rita") as channel:
        with pytest.raises(RpcError):
            await channel.unary(QUERY, QueryRequest(job_id="x" * 1_000_000))
    (line,) = audit_lines(log_guard)
    assert line["job"] == "x" * 512
