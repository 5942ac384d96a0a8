"""Attach where it cannot be, and requests in it that make no sense: what each gets, and that it costs nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import betterproto
import pytest
import trio

from api.client import JobClient
from api.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    OutOfRangeError,
    ResourceExhaustedError,
    RpcError,
)
from api.messages import (
    Attached,
    AttachRequest,
    AttachStart,
    CloseStdin,
    JobState,
    Terminal,
    WindowSize,
)
from api.rpc.codec import MAX_MESSAGE
from tests.integration.conftest import Connect
from tests.support.attach import SECONDS, conversation, error_of, next_event, starting
from tests.support.pki import TestPki


@pytest.fixture
async def client(connect: Connect) -> AsyncIterator[JobClient]:
    """A writer."""
    async with connect("alice") as client:
        yield client


async def test_there_has_to_be_something_to_attach_to(client: JobClient) -> None:
    """A stdin, and a job that has not ended."""
    without = await client.start(["sleep", "1000"])
    ended = await client.start(["true"], attachable=True)
    await client.wait(ended.id)
    for job, reason in ((without, "NOT_ATTACHABLE"), (ended, "JOB_ENDED")):
        with pytest.raises(FailedPreconditionError) as refused:
            async with client.attach(job.id):
                pass
        assert refused.value.reason == reason
        assert [each.field for each in refused.value.violations] == ["start.job_id"]
    await client.stop(without.id, grace=0)


async def test_who_is_refused_does_not_cost_the_one_who_is_attached(client: JobClient) -> None:
    """For an offset beyond the end, or the size of no terminal. The order of the checks: nothing is taken over."""
    job = await client.start(["cat"], attachable=True)
    async with client.attach(job.id) as attachment:
        with pytest.raises(OutOfRangeError):
            async with client.attach(job.id, offset=100, take_over=True):
                pass
        with pytest.raises(FailedPreconditionError, match="no terminal"):
            async with client.attach(job.id, size=(24, 80), take_over=True):
                pass
        await attachment.send(b"x")
        assert (await anext(attachment)).data == b"x"
    await client.stop(job.id, grace=0)


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([AttachRequest(data=b"x")], "start"),
        ([AttachRequest()], "start"),
        ([], "start"),
        (["start", "start"], "start"),
        (["start", AttachRequest()], "request"),
        ([starting("ID", offset=-1)], "offset"),
        ([starting("ID", attachment_id="x" * 129)], "start.attachment_id"),
        ([starting("ID", window_size=WindowSize(0, 80))], "start.window_size.rows"),
        ([starting("ID", window_size=WindowSize(24, 5000))], "start.window_size.columns"),
        (["start", AttachRequest(resize=WindowSize(-1, 80))], "resize.rows"),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused_by_name(
    pki: TestPki, server: str, client: JobClient, requests: list[Any], field: str
) -> None:
    """And the job goes on."""
    job = await client.start(["cat"], attachable=True)
    async with conversation(pki, server) as call:
        for request in requests:
            sent = starting(job.id) if request == "start" else request
            _, content = betterproto.which_one_of(sent, "request")
            if isinstance(content, AttachStart):
                content.job_id = job.id
            await call.send(sent)
        if not requests:
            call.end()
        error = await error_of(call)
    assert isinstance(error, InvalidArgumentError)
    assert [violation.field for violation in error.violations] == [field]
    assert (await client.query(job.id)).state == JobState.RUNNING
    await client.stop(job.id, grace=0)


async def test_a_pipe_has_no_size(pki: TestPki, server: str, client: JobClient) -> None:
    """Neither at the start nor later."""
    job = await client.start(["cat"], attachable=True)
    for requests in (
        [starting(job.id, window_size=WindowSize(24, 80))],
        [starting(job.id), AttachRequest(resize=WindowSize(24, 80))],
    ):
        async with conversation(pki, server, *requests) as call:
            error = await error_of(call)
            assert isinstance(error, FailedPreconditionError)
            assert error.reason == "NO_TERMINAL"
    await client.stop(job.id, grace=0)


async def test_bytes_after_the_end_are_refused(pki: TestPki, server: str, client: JobClient) -> None:
    """By whichever attachment that was asked for."""
    job = await client.start(["sh", "-c", "cat; exec sleep 1000"], attachable=True)
    close, data = AttachRequest(close_stdin=CloseStdin()), AttachRequest(data=b"x")
    async with conversation(pki, server, starting(job.id), close, data) as call:
        assert (await error_of(call)).reason == "STDIN_CLOSED"
    async with conversation(pki, server, starting(job.id), data) as call:
        attached = await next_event(call)
        assert isinstance(attached, Attached)
        assert attached.stdin_closed
        assert (await error_of(call)).reason == "STDIN_CLOSED"
    await client.stop(job.id, grace=0)


async def test_a_message_over_the_limit_ends_the_attachment(pki: TestPki, server: str, client: JobClient) -> None:
    """Before any of it is kept; nothing of it reaches the job."""
    job = await client.start(["cat"], attachable=True)
    async with conversation(pki, server, starting(job.id)) as call:
        assert await call.receive()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(RpcError):
                    await call.send(AttachRequest(data=bytes(MAX_MESSAGE + 1)))

            nursery.start_soon(send)
            assert isinstance(await error_of(call), ResourceExhaustedError)
    assert (await client.query(job.id)).output_bytes == 0
    await client.stop(job.id, grace=0)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"terminal": Terminal(0, 80)}, "spec.terminal.rows"),
        ({"terminal": Terminal(24, 0)}, "spec.terminal.columns"),
        ({"terminal": Terminal(24, 70_000)}, "spec.terminal.columns"),
        ({"terminal": Terminal(24, 80, "x\n")}, "spec.terminal.term"),
        ({"terminal": Terminal(24, 80), "stdin": b"x"}, "spec.stdin_data"),
        ({"attachable": True, "stdin": b"x"}, "spec.stdin_data"),
        ({"stdin": bytes(1024 * 1024)}, "spec"),
    ],
)
async def test_a_spec_that_makes_no_sense_is_refused_by_name(
    client: JobClient, fields: dict[str, Any], field: str
) -> None:
    """And nothing is started."""
    with pytest.raises(InvalidArgumentError) as refused:
        await client.start(["true"], **fields)
    assert [violation.field for violation in refused.value.violations] == [field]
    assert [job async for job in client.list()] == []


async def test_a_terminal_without_a_launcher(client: JobClient) -> None:
    """The daemon of these tests has none: a job can have a terminal all the same, which is its user's alone."""
    script = (
        "stty -echo; tty; stat -c %a $(tty); stty size; echo $TERM >&2; read x; echo $x; stty size; exec sleep 1000"
    )
    job = await client.start(["sh", "-c", script], terminal=Terminal(24, 80))
    with trio.fail_after(SECONDS):
        async with client.attach(job.id, size=(30, 100)) as attachment:
            seen = b""
            for typed, lines in ((b"typed\n", 4), (b"\x03", 6)):
                while seen.count(b"\n") < lines:
                    seen += (await anext(attachment)).data
                await attachment.send(typed)
            with pytest.raises(InvalidArgumentError) as refused:
                await attachment.resize(2**32 + 24, 80)
            assert [violation.field for violation in refused.value.violations] == ["resize.rows"]
            async for chunk in attachment:
                seen += chunk.data
    assert seen.startswith(b"/dev/pts/")
    assert seen.splitlines()[1] == b"600"
    assert seen.splitlines()[3:] == [b"xterm", b"typed", b"30 100"]
    assert attachment.verdict is not None
    assert (attachment.verdict.state, attachment.verdict.signal) == (JobState.KILLED, 2)


async def test_a_terminal_has_no_end_of_its_own(pki: TestPki, server: str, client: JobClient) -> None:
    """But a character that says so."""
    job = await client.start(["cat"], terminal=Terminal(24, 80))
    async with conversation(pki, server, starting(job.id), AttachRequest(close_stdin=CloseStdin())) as call:
        assert (await error_of(call)).reason == "STDIN_IS_TERMINAL"
    with trio.fail_after(SECONDS):
        async with client.attach(job.id) as attachment:
            await attachment.send(b"\x04")
            assert b"".join([chunk.data async for chunk in attachment]) == b""
    assert attachment.verdict is not None
    assert attachment.verdict.exit_code == 0
