"""Where a stream begins, what it holds, and that it stays alive."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import betterproto
import pytest
import trio
import trio.testing

from api import methods
from api.client import JobClient
from api.messages import Gap, Job, OutputSource, StreamRequest
from tests.integration.conftest import Connect
from tests.support.daemon import running_daemon
from tests.support.patience import patient
from tests.support.pki import TestPki

SCRIPT = "for i in 1 2 3 4 5; do echo out $i; read line; echo err $i >&2; read line; done"
"""Each line is recorded by itself, and in this order: the next one is written when somebody has seen it."""


async def finished(client: JobClient) -> Job:
    job = await client.start(["sh", "-c", SCRIPT], attachable=True)
    async with client.attach(job.id) as attachment:
        async for _ in attachment:
            await attachment.send(b"\n")
    [job] = await client.wait(job.id)
    return job


async def text(client: JobClient, job: Job, **options: object) -> str:
    async with client.stream(job.id, **options) as output:  # type: ignore[arg-type] # each test gives what it is about
        return b"".join([chunk.data async for chunk in output]).decode()


async def test_only_one_of_the_two_streams(connect: Connect) -> None:
    """The other one is not sent; the verdict counts both."""
    async with connect() as client:
        job = await finished(client)
        assert await text(client, job, source=OutputSource.STDOUT) == "".join(f"out {i}\n" for i in range(1, 6))
        async with client.stream(job.id, source=OutputSource.STDERR) as output:
            assert b"".join([c.data async for c in output]).decode() == "".join(f"err {i}\n" for i in range(1, 6))
        assert output.verdict is not None
        assert output.verdict.end_offset == job.output_bytes == 60


async def test_the_last_lines_and_the_last_bytes(connect: Connect) -> None:
    """Of both streams together, before what is recorded now."""
    async with connect() as client:
        job = await finished(client)
        assert await text(client, job, tail_lines=3) == "err 4\nout 5\nerr 5\n"
        assert await text(client, job, tail_bytes=4) == "r 5\n"
        assert await text(client, job, tail_lines=0) == ""
        assert await text(client, job, tail_bytes=10**6) == await text(client, job)


async def test_since_a_time(connect: Connect) -> None:
    """What was read from the job then or later."""
    async with connect() as client:
        job = await finished(client)
        async with client.stream(job.id) as output:
            chunks = [chunk async for chunk in output]
        third = chunks[2].time
        assert third is not None
        assert await text(client, job, since=third) == b"".join(c.data for c in chunks[2:]).decode()
        assert await text(client, job, since=datetime.now(UTC) + timedelta(hours=1)) == ""


async def test_a_job_s_limit_shows_as_a_gap(pki: TestPki, tmp_path: Path) -> None:
    """How much is missing is told where it is missing, in the verdict, and by query; the job does not notice."""
    async with (
        running_daemon(pki, tmp_path / "state", max_output=100) as server,
        JobClient.connect(server, **pki.credentials("alice")) as client,
    ):
        job = await client.start(["sh", "-c", "head -c 250 /dev/zero; exit 4"])
        async with client.stream(job.id) as output:
            size = sum([len(chunk.data) async for chunk in output])
        ended = await client.query(job.id)
    assert output.verdict is not None
    assert (size, output.gaps, output.verdict.dropped_bytes) == (100, [Gap(100, 150)], 150)
    assert (ended.exit_code, ended.output_bytes, ended.dropped_bytes) == (4, 100, 150)


async def test_a_quiet_stream_is_kept_alive(pki: TestPki, tmp_path: Path) -> None:
    """A heartbeat now and then, with the offset at which it is; the client is not bothered with it."""
    async with (
        running_daemon(pki, tmp_path / "state", heartbeat=0.02) as server,
        JobClient.connect(server, **pki.credentials("alice")) as client,
    ):
        job = await client.start(["sh", "-c", "echo ready; exec sleep 60"])
        channel = await client.channel()
        seen: list[str] = []
        with trio.fail_after(patient(10)):
            async with channel.call(methods.STREAM, StreamRequest(job.id)) as answers:
                while "output" not in seen or seen.count("heartbeat") < 3 or seen[-1] != "heartbeat":
                    answer = await answers.receive()
                    assert answer is not None
                    seen.append(betterproto.which_one_of(answer, "event")[0])
                assert answer.heartbeat.offset == 6
    assert seen.count("output") == 1


async def test_a_caller_may_put_each_step_in_a_scope_of_its_own(connect: Connect, tmp_path: Path) -> None:
    """Waiting for the next piece for a limited time, again and again, is how a stream is watched."""
    gate = tmp_path / "gate"
    async with connect() as client:
        job = await client.start(["sh", "-c", f"echo one; until test -e {gate}; do sleep 0.01; done; echo two"])
        async with client.stream(job.id) as output:
            with trio.fail_after(patient(10)):
                assert (await anext(output)).data == b"one\n"
            with trio.move_on_after(0.01) as waiting:
                await anext(output)
            assert waiting.cancelled_caught
            gate.touch()
            assert b"".join([chunk.data async for chunk in output]) == b"two\n"


async def test_two_tasks_cannot_read_one_stream(connect: Connect) -> None:
    """One of them would miss what the other got."""
    async with connect() as client:
        job = await client.start(["sleep", "60"])
        async with client.stream(job.id) as output, trio.open_nursery() as nursery:
            nursery.start_soon(anext, output)
            await trio.testing.wait_all_tasks_blocked(0.01)
            with pytest.raises(trio.BusyResourceError):
                await anext(output)
            nursery.cancel_scope.cancel()
