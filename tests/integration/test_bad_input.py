"""What a request gets wrong is said with a code, a reason and the field; the connection goes on."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from api import methods
from api.client import JobClient
from api.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
    ResourceExhaustedError,
    RpcError,
)
from api.messages import Job, JobState, ListRequest, OutputSource
from tests.integration.conftest import Connect
from tests.support.daemon import running_daemon
from tests.support.pki import TestPki

NO_JOB = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
async def client(connect: Connect) -> AsyncIterator[JobClient]:
    """A writer's connection. No test here may take longer than its scope."""
    with trio.fail_after(20):
        async with connect() as client:
            yield client


@asynccontextmanager
async def refused(client: JobClient, kind: type[RpcError], reason: str, *fields: str) -> AsyncIterator[None]:
    """The block's call ends with this error, for these fields; another call then works on the same connection."""
    channel = await client.channel()
    with pytest.raises(kind) as caught:
        yield
    error = caught.value
    assert (type(error), error.reason) == (kind, reason), error.message
    assert tuple(violation.field for violation in error.violations) == fields
    assert error.message
    assert all(violation.description for violation in error.violations)
    await client.workers()
    assert await client.channel() is channel


async def stdout_of(client: JobClient, job_id: str) -> bytes:
    """All of a job's stdout."""
    collected = b""
    async with client.stream(job_id) as output:
        async for chunk in output:
            assert chunk.source == OutputSource.STDOUT
            collected += chunk.data
    return collected


# ---- what cannot be a job at all


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        pytest.param({"argv": []}, ["spec.argv"], id="no argument"),
        pytest.param({"argv": [""]}, ["spec.argv"], id="an empty command"),
        pytest.param({"argv": ["", "x"]}, ["spec.argv"], id="an empty command with an argument"),
        pytest.param({"argv": ["echo", "a\0b"]}, ["spec.argv[1]"], id="NUL in an argument"),
        pytest.param({"argv": ["e\0cho"]}, ["spec.argv[0]"], id="NUL in the command"),
        pytest.param({"argv": ["true"], "env": {"A\0B": "1"}}, ["spec.env"], id="NUL in a variable's name"),
        pytest.param({"argv": ["true"], "env": {"A": "1\0"}}, ["spec.env['A']"], id="NUL in a variable"),
        pytest.param({"argv": ["true"], "env": {"A=B": "1"}}, ["spec.env"], id="= in a variable's name"),
        pytest.param({"argv": ["true"], "env": {"": "1"}}, ["spec.env"], id="a variable without a name"),
        pytest.param({"argv": ["true"], "cwd": "tmp"}, ["spec.cwd"], id="a relative directory"),
        pytest.param({"argv": ["true"], "cwd": "."}, ["spec.cwd"], id="a dot for a directory"),
        pytest.param({"argv": ["true"], "cwd": "/tmp\0"}, ["spec.cwd"], id="NUL in the directory"),
        pytest.param({"argv": ["true"], "name": "n" * 129}, ["spec.name"], id="a long name"),
        pytest.param({"argv": ["true"], "name": "a\nb"}, ["spec.name"], id="a name of two lines"),
        pytest.param(
            {"argv": ["", "\0"], "name": "\x1b", "env": {"=": "\0"}, "cwd": "x"},
            ["spec.argv", "spec.argv[1]", "spec.name", "spec.env", "spec.env['=']", "spec.cwd"],
            id="everything at once",
        ),
    ],
)
async def test_a_spec_that_the_kernel_cannot_take_names_every_field(
    client: JobClient, spec: dict[str, Any], fields: list[str]
) -> None:
    """INVALID_ARGUMENT with a violation for each field that is wrong, and no job."""
    async with refused(client, InvalidArgumentError, "INVALID_SPEC", *fields):
        await client.start(**spec)
    assert [job async for job in client.list()] == []


@pytest.mark.parametrize("request_id", ["r" * 129, "two\nlines", "\0"])
async def test_a_request_id_is_short_and_printable(client: JobClient, request_id: str) -> None:
    """INVALID_ARGUMENT that names the field."""
    async with refused(client, InvalidArgumentError, "INVALID_REQUEST", "request_id"):
        await client.start(["true"], request_id=request_id)


async def test_a_request_id_stands_for_one_request(client: JobClient) -> None:
    """The same request_id with another command is ALREADY_EXISTS, and says what differs."""
    await client.start(["true"], request_id="mine")
    async with refused(client, AlreadyExistsError, "REQUEST_ID_REUSED"):
        await client.start(["false"], request_id="mine")


# ---- what cannot be started: a job that says why


@pytest.mark.parametrize(
    ("spec", "reason", "named"),
    [
        ({"argv": ["true"], "cwd": "/is/not/there"}, "CWD_UNUSABLE", "/is/not/there"),
        ({"argv": ["true"], "cwd": "/dev/null"}, "CWD_UNUSABLE", "/dev/null"),
        ({"argv": ["no-such-command-at-all"]}, "COMMAND_NOT_FOUND", "no-such-command-at-all"),
        ({"argv": ["/no/such/command"]}, "COMMAND_NOT_FOUND", "/no/such/command"),
        ({"argv": ["/dev/null/command"]}, "COMMAND_NOT_FOUND", "/dev/null/command"),
        ({"argv": ["true"], "env": {"PATH": "/nowhere"}}, "COMMAND_NOT_FOUND", "true"),
        ({"argv": ["/"]}, "NOT_EXECUTABLE", "/"),
        ({"argv": ["/tmp"], "cwd": "/tmp"}, "NOT_EXECUTABLE", "/tmp"),
        ({"argv": ["/etc/passwd"]}, "NOT_EXECUTABLE", "/etc/passwd"),
    ],
    ids=str,
)
async def test_a_command_that_cannot_be_started_is_a_job_that_says_why(
    client: JobClient, spec: dict[str, Any], reason: str, named: str
) -> None:
    """The call succeeds; the job is START_FAILED, with a reason for programs and a message that names the culprit."""
    job = await client.start(**spec)
    assert (job.state, job.reason) == (JobState.START_FAILED, reason), job.message
    assert repr(named) in job.message
    assert (job.pid, job.exit_code, job.signal, job.started_at) == (0, None, None, None)
    assert job.ended_at is not None
    assert await stdout_of(client, job.id) == b""


@pytest.mark.parametrize(
    ("text", "mode", "reason"),
    [
        pytest.param("#!/bin/sh\n", 0o644, "NOT_EXECUTABLE", id="no x bit"),
        pytest.param("\x01\x02 not a program", 0o755, "NOT_EXECUTABLE", id="no known format"),
        pytest.param("#!/no/such/interpreter\n", 0o755, "COMMAND_NOT_FOUND", id="no interpreter"),
    ],
)
async def test_a_file_that_is_no_program_is_not_executed(
    client: JobClient, tmp_path: Path, text: str, mode: int, reason: str
) -> None:
    """Neither a file without the x bit nor one that the kernel does not know is run; the message names it."""
    program = tmp_path / "program"
    program.write_text(text)
    program.chmod(mode)
    job = await client.start([str(program)])
    assert (job.state, job.reason) == (JobState.START_FAILED, reason)
    assert str(program) in job.message


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"argv": ["true", "x" * 131_072]}, id="one argument"),
        pytest.param({"argv": ["true"], "env": {"X": "x" * 131_072}}, id="a variable"),
    ],
)
async def test_more_arguments_than_the_kernel_takes_are_a_job_that_says_so(
    client: JobClient, spec: dict[str, Any]
) -> None:
    """What is within the message limit and beyond execve's is START_FAILED, and says what to do instead."""
    job = await client.start(**spec)
    assert (job.state, job.reason) == (JobState.START_FAILED, "ARGUMENTS_TOO_LONG")
    assert "pass them in a file" in job.message


async def test_ten_thousand_arguments_arrive(client: JobClient) -> None:
    """A long command line is fine."""
    job = await client.start(["sh", "-c", 'echo $# "$9999"', "sh", *map(str, range(1, 10_001))])
    assert await stdout_of(client, job.id) == b"10000 9999\n"


async def test_arguments_and_variables_arrive_as_they_are(client: JobClient) -> None:
    """No shell in between: blanks, quotes, newlines, empty and non-ASCII arguments are the job's."""
    arguments = ["", " ", "a b", "'", '"', "$HOME", "*", "\n", "\\", "-n", "\u00e9\U0001f600"]
    script = 'printf "%s|" "$@"; printf "%s" "$V"'
    job = await client.start(["sh", "-c", script, "sh", *arguments], env={"V": "= \n\u00fc"})
    assert await stdout_of(client, job.id) == ("|".join(arguments) + "|= \n\u00fc").encode()


# ---- too large a message


async def test_a_message_over_the_limit_is_refused_and_others_go_on(client: JobClient) -> None:
    """Five MiB are RESOURCE_EXHAUSTED; a stream and a wait on the same connection do not notice."""
    job = await client.start(["sh", "-c", "echo before; exec sleep 1000"])
    waited: list[Job] = []

    async def wait() -> None:
        waited.extend(await client.wait(job.id))

    async with trio.open_nursery() as nursery, client.stream(job.id) as output:
        nursery.start_soon(wait)
        assert (await anext(output)).data == b"before\n"
        async with refused(client, ResourceExhaustedError, "MESSAGE_TOO_LARGE"):
            await client.start(["true", "x" * (5 * 1024 * 1024)])
        await client.signal(job.id, 15)
        with pytest.raises(StopAsyncIteration):
            await anext(output)
    assert output.verdict is not None
    assert output.verdict.state == waited[0].state == JobState.STOPPED


async def test_many_messages_over_the_limit_do_not_use_up_the_connection(client: JobClient) -> None:
    """What was sent of refused messages is given back to the connection's window, again and again."""
    for _ in range(8):
        async with refused(client, ResourceExhaustedError, "MESSAGE_TOO_LARGE"):
            await client.start(["true", "x" * (5 * 1024 * 1024)])


async def test_a_message_just_below_the_limit_is_taken(client: JobClient) -> None:
    """Four MiB less a little get to the handler, which finds that the spec is too large, and says so by field."""
    async with refused(client, InvalidArgumentError, "INVALID_SPEC", "spec"):
        await client.start(["true", *["x" * 100_000] * 41])


# ---- ids

Ask = Callable[[JobClient, str], Awaitable[object]]


async def _read(client: JobClient, job_id: str) -> bytes:
    return await stdout_of(client, job_id)


ASKS: dict[str, Ask] = {
    "query": lambda client, job_id: client.query(job_id),
    "stop": lambda client, job_id: client.stop(job_id),
    "signal": lambda client, job_id: client.signal(job_id, 15),
    "stream": _read,
    "wait": lambda client, job_id: client.wait(job_id),
}
every_ask = pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())


@every_ask
@pytest.mark.parametrize("job_id", [NO_JOB, "00000000", "ffffffffffff4fff8fffffffffffffff"])
async def test_an_id_of_no_job_is_not_found(client: JobClient, ask: Ask, job_id: str) -> None:
    """A well-formed id, or prefix of one, that no job has."""
    async with refused(client, NotFoundError, "JOB_NOT_FOUND"):
        await ask(client, job_id)


@every_ask
@pytest.mark.parametrize(
    "job_id",
    [
        "",
        "abc",
        "000",
        "not-a-uuid",
        "0000000g",
        f"{NO_JOB}0",
        "0000000-",
        "%",
        "0000%",
        "' OR 1=1 --",
        "../../etc",
        "\u0660" * 8,
    ],
)
async def test_what_is_no_id_is_refused(client: JobClient, ask: Ask, job_id: str) -> None:
    """INVALID_ARGUMENT, for what no UUID begins like and for prefixes of less than four characters."""
    async with refused(client, InvalidArgumentError, "INVALID_JOB_ID"):
        await ask(client, job_id)


def _as_it_is(job_id: str) -> str:
    return job_id


def _short(job_id: str) -> str:
    return job_id[:4]


def _eight(job_id: str) -> str:
    return job_id[:8]


def _ends_with_a_dash(job_id: str) -> str:
    return job_id[:9]


def _without_dashes(job_id: str) -> str:
    return job_id.replace("-", "")


def _upper(job_id: str) -> str:
    return job_id.upper()


@every_ask
@pytest.mark.parametrize("form", [_as_it_is, _short, _eight, _ends_with_a_dash, _without_dashes, _upper])
async def test_a_prefix_that_one_job_has_names_it(client: JobClient, ask: Ask, form: Callable[[str], str]) -> None:
    """Ids may be cut to four characters, and written in capitals or without dashes, in every call."""
    job = await client.start(["sh", "-c", "sleep 0.1"])
    await ask(client, form(job.id))
    (ended,) = await client.wait(job.id)
    assert ended.id == job.id


async def test_a_prefix_that_several_jobs_have_is_refused(pki: TestPki, tmp_path: Path) -> None:
    """INVALID_ARGUMENT in every call: nothing is ever stopped by a guess."""
    # Jobs that wait cost little: make them until two share four characters.
    with trio.fail_after(30):
        async with (
            running_daemon(pki, tmp_path / "state", slots=1) as address,
            JobClient.connect(address, **pki.credentials("alice"), retry_for=0) as client,
        ):
            prefix = ""
            seen = {(await client.start(["sleep", "1000"])).id[:4]}

            async def start_some() -> None:
                nonlocal prefix
                while not prefix:
                    start = (await client.start(["true"])).id[:4]
                    if start in seen:
                        prefix = start
                    seen.add(start)

            async with trio.open_nursery() as nursery:
                for _ in range(32):
                    nursery.start_soon(start_some)
            for ask in ASKS.values():
                async with refused(client, InvalidArgumentError, "AMBIGUOUS_JOB_ID"):
                    await ask(client, prefix)


# ---- numbers


async def test_an_offset_is_not_negative(client: JobClient) -> None:
    """INVALID_ARGUMENT that names the field."""
    job = await client.start(["echo", "x"])
    async with (
        refused(client, InvalidArgumentError, "INVALID_REQUEST", "offset"),
        client.stream(job.id, offset=-1) as output,
    ):
        await anext(output)


@pytest.mark.parametrize("beyond", [1, 2**40, 2**63 - 1 - 2])
@pytest.mark.parametrize("ended", [True, False])
async def test_an_offset_beyond_the_end_is_out_of_range(client: JobClient, ended: bool, beyond: int) -> None:
    """OUT_OF_RANGE while the job runs and after, with both numbers; an offset at the end is fine."""
    job = await client.start(["sh", "-c", "echo x" if ended else "echo x; exec sleep 1000"])
    async with client.stream(job.id) as output:
        await anext(output)
    if ended:
        await client.wait(job.id)
    async with (
        refused(client, OutOfRangeError, "OFFSET_BEYOND_END"),
        client.stream(job.id, offset=2 + beyond) as output,
    ):
        await anext(output)
    await client.stop(job.id)
    async with client.stream(job.id, offset=2) as output:
        assert [chunk async for chunk in output] == []


@pytest.mark.parametrize("token", ["x", "MTo=", "MTotMQ==", "MTowMA==", "Mjox", "\u00e9", "1:1", "=" * 1000])
async def test_a_page_token_that_was_not_made_here_is_refused(client: JobClient, token: str) -> None:
    """INVALID_ARGUMENT that names the field."""
    channel = await client.channel()
    async with refused(client, InvalidArgumentError, "INVALID_REQUEST", "page_token"):
        await channel.unary(methods.LIST, ListRequest(page_token=token))


@pytest.mark.parametrize("size", [-1, -(2**31)])
async def test_a_page_size_is_not_negative(client: JobClient, size: int) -> None:
    """INVALID_ARGUMENT that names the field."""
    async with refused(client, InvalidArgumentError, "INVALID_REQUEST", "page_size"):
        await anext(client.list(page_size=size))


async def test_a_page_size_over_the_maximum_is_cut(client: JobClient) -> None:
    """AIP-158: too large a page is no error."""
    job = await client.start(["true"])
    assert [each.id async for each in client.list(page_size=2**31 - 1)] == [job.id]


@pytest.mark.parametrize("state", [0, 99])
async def test_a_state_that_there_is_not_is_refused(client: JobClient, state: int) -> None:
    """INVALID_ARGUMENT that names the field."""
    channel = await client.channel()
    async with refused(client, InvalidArgumentError, "INVALID_REQUEST", "states"):
        await channel.unary(methods.LIST, ListRequest(states=[state]))  # type: ignore[list-item] # is no state on purpose


@pytest.mark.parametrize("grace", [-0.001, -1.0, 86_401.0, 1e9])
async def test_a_grace_is_between_nothing_and_a_day(client: JobClient, grace: float) -> None:
    """INVALID_ARGUMENT that names the field, and the job goes on."""
    job = await client.start(["sleep", "1000"])
    async with refused(client, InvalidArgumentError, "INVALID_REQUEST", "grace_period"):
        await client.stop(job.id, grace=grace)
    assert (await client.query(job.id)).state == JobState.RUNNING
    await client.stop(job.id, grace=0)


@pytest.mark.parametrize("signum", [0, -1, -9, 65, 10_000, 2**31 - 1])
async def test_a_signal_is_one_of_linux(client: JobClient, signum: int) -> None:
    """INVALID_ARGUMENT that names the field, and the job goes on."""
    job = await client.start(["sleep", "1000"])
    async with refused(client, InvalidArgumentError, "INVALID_REQUEST", "signal"):
        await client.signal(job.id, signum)
    assert (await client.query(job.id)).state == JobState.RUNNING
    await client.stop(job.id, grace=0)


@pytest.mark.parametrize("argv", [["true"], ["no-such-command-at-all"]])
async def test_a_job_that_has_ended_takes_no_signal(client: JobClient, argv: list[str]) -> None:
    """FAILED_PRECONDITION: there is no process."""
    job = await client.start(argv)
    await client.wait(job.id)
    async with refused(client, FailedPreconditionError, "JOB_NOT_RUNNING"):
        await client.signal(job.id, 15)


async def test_a_job_that_waits_takes_no_signal(pki: TestPki, tmp_path: Path) -> None:
    """FAILED_PRECONDITION: there is no process yet."""
    with trio.fail_after(20):
        async with (
            running_daemon(pki, tmp_path / "state", slots=1) as address,
            JobClient.connect(address, **pki.credentials("alice"), retry_for=0) as client,
        ):
            await client.start(["sleep", "1000"])
            waiting = await client.start(["true"])
            assert waiting.state == JobState.PENDING
            async with refused(client, FailedPreconditionError, "JOB_NOT_RUNNING"):
                await client.signal(waiting.id, 15)


async def test_stopping_a_job_that_has_ended_is_no_error(client: JobClient) -> None:
    """The answer tells how it ended; nothing changes."""
    job = await client.start(["sh", "-c", "exit 3"])
    (ended,) = await client.wait(job.id)
    stopped = await client.stop(job.id)
    stopped.usage = None  # answers about many jobs do not have it
    assert stopped == ended
    assert (ended.state, ended.exit_code, ended.stopped_by) == (JobState.FAILED, 3, "")


@pytest.mark.parametrize("count", [0, 1001])
async def test_a_wait_is_for_one_job_at_least_and_a_thousand_at_most(client: JobClient, count: int) -> None:
    """INVALID_ARGUMENT that names the field."""
    async with refused(client, InvalidArgumentError, "INVALID_REQUEST", "job_ids"):
        await client.wait(*[NO_JOB] * count)


async def test_a_wait_for_several_fails_if_one_is_not_there(client: JobClient) -> None:
    """NOT_FOUND at once, though another of them runs."""
    job = await client.start(["sleep", "1000"])
    async with refused(client, NotFoundError, "JOB_NOT_FOUND"):
        await client.wait(job.id, NO_JOB)
    await client.stop(job.id)


# ---- messages are safe to show


@pytest.mark.parametrize("job_id", ["\x1b[31mred\n", "x" * 100_000, "\u202ertl"])
async def test_a_message_has_what_was_sent_escaped_and_cut(client: JobClient, job_id: str) -> None:
    """What a caller sends cannot move a cursor, or fill a screen, where the error is shown."""
    with pytest.raises(InvalidArgumentError) as caught:
        await client.query(job_id)
    assert re.fullmatch(r"[ -~]{1,300}", caught.value.message)
