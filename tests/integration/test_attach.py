"""Attach over the wire: who may write to a job's stdin, and what is told of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from api.attachment import MAX_UNACCEPTED
from api.client import JobClient
from api.errors import (
    AbortedError,
    FailedPreconditionError,
)
from api.messages import (
    Attached,
    AttachRequest,
    CloseStdin,
    Heartbeat,
    JobState,
    Output,
    Verdict,
)
from tests.integration.conftest import Connect
from tests.support.attach import SECONDS, all_of, conversation, error_of, next_event, starting
from tests.support.daemon import running_daemon
from tests.support.pki import TestPki


@pytest.fixture
async def client(connect: Connect) -> AsyncIterator[JobClient]:
    """A writer."""
    async with connect("alice") as client:
        yield client


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
    """Meanwhile the call shows signs of life, with the offset that it was asked for."""
    async with (
        running_daemon(pki, tmp_path / "state", slots=1, heartbeat=0.05) as server,
        JobClient.connect(server, **pki.credentials("alice")) as client,
    ):
        first = await client.start(["sleep", "1000"])
        waiting = await client.start(["cat"], attachable=True)
        async with conversation(pki, server, starting(waiting.id, offset=7)) as call:
            assert await next_event(call) == Heartbeat(7)
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


async def test_a_job_that_closes_its_stdin_is_told_of_and_its_output_goes_on(client: JobClient, tmp_path: Path) -> None:
    """What is written then is dropped."""
    gate = tmp_path / "gate"
    script = f"exec 0<&-; echo closed; until test -e {gate}; do sleep 0.01; done; echo done"
    job = await client.start(["sh", "-c", script], attachable=True)
    with trio.fail_after(SECONDS):
        async with client.attach(job.id) as attachment:
            assert (await anext(attachment)).data == b"closed\n"
            await attachment.send(b"for nobody")
            while not attachment.refused:
                with trio.move_on_after(0.01):
                    await anext(attachment)
            gate.touch()
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
        assert [each.field for each in refused.value.violations] == ["start.job_id"]
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
