"""What cannot be a job, or cannot be started, or is too large: said with a code, a reason and the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from api.client import JobClient
from api.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    ResourceExhaustedError,
)
from api.messages import Job, JobState
from tests.support.refusals import refused, stdout_of

# ---- what cannot be a job at all


def labelled(labels: dict[str, str]) -> dict[str, Any]:
    return {"argv": ["true"], "worker_labels": labels}


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
            {"argv": ["true"], "worker_labels": {"gpu": "1"}}, ["spec.worker_labels"], id="a label, in no pool"
        ),
        pytest.param(
            {"argv": ["true"], "worker_labels": {"": "1"}}, ["spec.worker_labels"], id="a label without a name"
        ),
        pytest.param(
            {"argv": ["true"], "worker_labels": {"a=b": ""}}, ["spec.worker_labels"], id="= in a label's name"
        ),
        pytest.param(
            {"argv": ["true"], "worker_labels": {"a": "\n"}}, ["spec.worker_labels"], id="a label of two lines"
        ),
        pytest.param({"argv": ["true"], "retry_lost": 1}, ["spec.retry_lost"], id="a rerun, in no pool"),
        pytest.param({"argv": ["true"], "retry_lost": -1}, ["spec.retry_lost"], id="fewer reruns than none"),
        pytest.param({"argv": ["true"], "retry_lost": 11}, ["spec.retry_lost"], id="reruns for ever"),
        pytest.param(labelled({"a": "b" * 64}), ["spec.worker_labels"], id="a long label"),
        pytest.param(labelled({str(n): "" for n in range(33)}), ["spec.worker_labels"], id="many labels"),
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
