"""Attach over the wire: who may write to a job's stdin, what is told of it, and what a wrong call gets."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import betterproto
import pytest
import trio

from api import methods
from api.address import parse_address
from api.attachment import MAX_UNACCEPTED, Attachment
from api.client import JobClient
from api.errors import (
    AbortedError,
    FailedPreconditionError,
    InvalidArgumentError,
    OutOfRangeError,
    ResourceExhaustedError,
    RpcError,
)
from api.messages import (
    Attached,
    AttachRequest,
    AttachResponse,
    AttachStart,
    CloseStdin,
    Heartbeat,
    JobState,
    Output,
    Terminal,
    Verdict,
    WindowSize,
)
from api.rpc.channel import Conversation, open_channel
from api.rpc.codec import MAX_MESSAGE
from tests.integration.conftest import Connect
from tests.support.daemon import running_daemon
from tests.support.pki import TestPki

SECONDS = 30
Calls = Conversation[AttachRequest, AttachResponse]


@pytest.fixture
async def client(connect: Connect) -> AsyncIterator[JobClient]:
    """A writer."""
    async with connect("alice") as client:
        yield client


@asynccontextmanager
async def conversation(pki: TestPki, server: str, *requests: AttachRequest) -> AsyncIterator[Calls]:
    """A call of nobody's library, with its first requests."""
    with trio.fail_after(SECONDS):
        async with (
            open_channel(*parse_address(server), pki.context("alice")) as channel,
            channel.converse(methods.ATTACH) as call,
        ):
            for request in requests:
                await call.send(request)
            yield call


async def error_of(call: Calls) -> RpcError:
    """How a call ends that is refused sooner or later."""
    try:
        while await call.receive():
            pass
    except RpcError as exc:
        return exc
    raise AssertionError("the call ended well")


async def next_event(call: Calls) -> Any:
    """The next event, None at the end."""
    answer = await call.receive()
    return None if answer is None else betterproto.which_one_of(answer, "event")[1]


def starting(job_id: str, **fields: Any) -> AttachRequest:
    return AttachRequest(start=AttachStart(job_id=job_id, **fields))


async def all_of(attachment: Attachment) -> bytes:
    return b"".join([chunk.data async for chunk in attachment])


# ---- what it is for


async def test_a_job_reads_what_is_written_and_then_the_end(client: JobClient) -> None:
    """Many MiB, over a stdin that the job has closed for it; every byte is accepted."""
    data = os.urandom(1024 * 1024) * 8
    job = await client.start(["sha256sum"], attachable=True)
    with trio.fail_after(SECONDS):
        async with client.attach(job.id) as attachment, trio.open_nursery() as nursery:

            async def feed() -> None:
                await attachment.send(data)
                await attachment.close_stdin()

            nursery.start_soon(feed)
            output = await all_of(attachment)
    assert output.split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert (attachment.accepted, attachment.stdin_closed, attachment.refused) == (len(data), True, False)
    assert attachment.verdict is not None
    assert attachment.verdict.exit_code == 0


async def test_a_job_reads_what_it_was_given(client: JobClient) -> None:
    """And the end; its stdin is a file that it cannot change. The bytes are not shown."""
    data = os.urandom(300_000)
    script = 'sha256sum; { printf x >&0; } 2>/dev/null || echo "cannot be written"'
    job = await client.start(["sh", "-c", script], stdin=data)
    async with client.stream(job.id) as output:
        text = b"".join([chunk.data async for chunk in output]).decode()
    assert text.split()[0] == hashlib.sha256(data).hexdigest()
    assert "cannot be written" in text
    assert (job.spec.stdin_data, job.spec.stdin_data_bytes) == (b"", len(data))


async def test_the_end_of_an_attachment_is_not_the_end_of_stdin(client: JobClient) -> None:
    """Somebody attaches again, and the job reads on."""
    job = await client.start(["cat"], attachable=True)
    with trio.fail_after(SECONDS):
        for number in range(3):
            async with client.attach(job.id, tail_bytes=0) as attachment:
                await attachment.send(b"%d\n" % number)
                assert (await anext(attachment)).data == b"%d\n" % number
        async with client.attach(job.id) as attachment:
            await attachment.close_stdin()
            await attachment.close_stdin()  # it is closed already
            assert await all_of(attachment) == b"0\n1\n2\n"


async def test_a_job_that_waits_is_attached_to_when_it_starts(pki: TestPki, tmp_path: Path) -> None:
    """Meanwhile the call shows signs of life."""
    async with (
        running_daemon(pki, tmp_path / "state", slots=1, heartbeat=0.05) as server,
        JobClient.connect(server, **pki.credentials("alice")) as client,
    ):
        first = await client.start(["sleep", "1000"])
        waiting = await client.start(["cat"], attachable=True)
        async with conversation(pki, server, starting(waiting.id)) as call:
            for _ in range(3):
                assert isinstance(await next_event(call), Heartbeat)
            await client.stop(first.id, grace=0)
            await call.send(AttachRequest(data=b"x"))
            await call.send(AttachRequest(close_stdin=CloseStdin()))
            events = []
            while (event := await next_event(call)) is not None:
                events.append(event)
        assert b"".join(each.data for each in events if isinstance(each, Output)) == b"x"
        assert [each.job_id for each in events if isinstance(each, Attached)] == [waiting.id]
        assert isinstance(events[-1], Verdict)


async def test_a_job_that_does_not_read_holds_its_writer_up_and_nobody_else(client: JobClient) -> None:
    """What is on its way is bounded; stop, query and the output go on."""
    job = await client.start(["sh", "-c", "echo begun; exec sleep 1000"], attachable=True)
    with trio.fail_after(SECONDS):
        async with client.attach(job.id) as attachment, trio.open_nursery() as nursery:

            async def feed() -> None:
                with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
                    await attachment.send(bytes(16 * 1024 * 1024))

            nursery.start_soon(feed)
            assert (await anext(attachment)).data == b"begun\n"
            while attachment.unaccepted < MAX_UNACCEPTED:
                with trio.move_on_after(0.01):
                    await anext(attachment)
            nursery.start_soon(client.stop, job.id)
            assert await all_of(attachment) == b""
    assert attachment.accepted <= 256 * 1024
    assert attachment.verdict is not None
    assert attachment.verdict.state == JobState.STOPPED


async def test_a_job_that_closes_its_stdin_is_told_of_and_its_output_goes_on(client: JobClient) -> None:
    """What is written then is dropped."""
    job = await client.start(["sh", "-c", "exec 0<&-; echo closed; sleep 0.3; echo done"], attachable=True)
    with trio.fail_after(SECONDS):
        async with client.attach(job.id) as attachment:
            assert (await anext(attachment)).data == b"closed\n"
            await attachment.send(b"for nobody")
            assert await all_of(attachment) == b"done\n"
    assert (attachment.refused, attachment.accepted, attachment.unaccepted) == (True, 0, 0)
    with pytest.raises(trio.ClosedResourceError):
        await attachment.send(b"more")


async def test_a_caller_that_sends_no_more_leaves_stdin_open(pki: TestPki, server: str, client: JobClient) -> None:
    """A half-close of the call is not close_stdin: output goes on, and others can write later."""
    job = await client.start(["cat"], attachable=True)
    async with conversation(pki, server, starting(job.id), AttachRequest(data=b"1")) as call:
        call.end()
        while not isinstance(event := await next_event(call), Output):
            assert event
        assert event.data == b"1"
    with trio.fail_after(SECONDS):
        async with client.attach(job.id, offset=1) as attachment:
            await attachment.send(b"2")
            await attachment.close_stdin()
            assert await all_of(attachment) == b"2"


# ---- one at a time


async def test_a_second_one_is_refused_unless_it_takes_over(client: JobClient, connect: Connect) -> None:
    """It is told who is attached; and the first, who has taken over."""
    job = await client.start(["cat"], attachable=True)
    async with connect("both") as other, client.attach(job.id) as first:
        with pytest.raises(FailedPreconditionError, match="alice is attached") as refused:
            async with other.attach(job.id):
                pass
        assert refused.value.reason == "ALREADY_ATTACHED"
        async with other.attach(job.id, take_over=True) as second:
            with pytest.raises(AbortedError, match="both has taken") as ended:
                await anext(first)
            assert ended.value.reason == "ATTACHMENT_TAKEN_OVER"
            with pytest.raises(trio.ClosedResourceError):
                await first.send(b"1")
            await second.send(b"2")
            assert (await anext(second)).data == b"2"
    await client.stop(job.id, grace=0)


async def test_an_attachment_that_goes_on_in_another_call_ends_in_the_first(
    pki: TestPki, server: str, client: JobClient
) -> None:
    """Its connection was lost, and the server may not know yet. The name alone is not enough: it is the principal's."""
    job = await client.start(["cat"], attachable=True)
    start = starting(job.id, attachment_id="mine")
    async with conversation(pki, server, start) as first:
        assert await first.receive()
        async with conversation(pki, server, start) as second:
            assert await second.receive()
            assert (await error_of(first)).reason == "ATTACHMENT_TAKEN_OVER"
        async with conversation(pki, server, starting(job.id, attachment_id="other")) as third:
            assert await third.receive()
            async with conversation(pki, server, start) as fourth:
                assert (await error_of(fourth)).reason == "ALREADY_ATTACHED"
    await client.stop(job.id, grace=0)


# ---- what it is not for


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
    await client.stop(without.id, grace=0)


async def test_an_offset_beyond_the_end_does_not_cost_the_one_who_is_attached(client: JobClient) -> None:
    """The order of the checks: who is refused has taken nothing over."""
    job = await client.start(["cat"], attachable=True)
    async with client.attach(job.id) as attachment:
        with pytest.raises(OutOfRangeError):
            async with client.attach(job.id, offset=100, take_over=True):
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
    """The daemon of these tests has none: a job can have a terminal all the same."""
    script = "stty -echo; tty; stty size; echo $TERM >&2; read x; echo $x; stty size; exec sleep 1000"
    job = await client.start(["sh", "-c", script], terminal=Terminal(24, 80))
    with trio.fail_after(SECONDS):
        async with client.attach(job.id, size=(30, 100)) as attachment:
            seen = b""
            for typed, lines in ((b"typed\n", 3), (b"\x03", 5)):
                while seen.count(b"\n") < lines:
                    seen += (await anext(attachment)).data
                await attachment.send(typed)
            async for chunk in attachment:
                seen += chunk.data
    assert seen.startswith(b"/dev/pts/")
    assert seen.splitlines()[2:] == [b"xterm", b"typed", b"30 100"]
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
