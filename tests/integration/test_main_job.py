"""The main job over the wire: start, stop, query and stream real processes through a real daemon."""

from __future__ import annotations

import pytest

from api.client import JobClient
from api.errors import FailedPreconditionError, NotFoundError
from api.messages import Job, JobState, OutputSource, Verdict
from tests.integration.conftest import Connect


async def read_all(client: JobClient, job: Job, offset: int = 0) -> tuple[bytes, bytes, Verdict]:
    """All of a job's output, and its verdict."""
    out: dict[int, bytes] = {OutputSource.STDOUT: b"", OutputSource.STDERR: b""}
    async with client.stream(job.id, offset=offset) as output:
        async for chunk in output:
            out[chunk.source] += chunk.data
    assert output.verdict is not None
    return out[OutputSource.STDOUT], out[OutputSource.STDERR], output.verdict


async def test_a_job_runs_and_its_output_arrives_byte_for_byte(connect: Connect) -> None:
    """Stdout and stderr come apart, as they were written, and the verdict comes last."""
    async with connect() as client:
        job = await client.start(["sh", "-c", r"printf 'a\0\377 no newline'; printf oops >&2; exit 7"])
        out, err, verdict = await read_all(client, job)
    assert (out, err) == (b"a\0\xff no newline", b"oops")
    assert (verdict.state, verdict.exit_code, verdict.end_offset) == (JobState.FAILED, 7, 14 + 4)


async def test_an_unknown_job_is_not_found(connect: Connect) -> None:
    """A well-formed id of no job is NOT_FOUND, with the reason for programs."""
    async with connect() as client:
        with pytest.raises(NotFoundError) as caught:
            await client.query("00000000-0000-4000-8000-000000000000")
    assert caught.value.reason == "JOB_NOT_FOUND"


async def test_many_followers_get_the_same_bytes(connect: Connect) -> None:
    """Followers that come before, while and after the job runs all get all of it."""
    import trio

    async with connect() as client:
        job = await client.start(["sh", "-c", "for i in $(seq 2000); do echo line $i; done"])
        results: list[bytes] = []

        async def follow() -> None:
            results.append((await read_all(client, job))[0])

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(follow)
        await follow()
    expected = b"".join(b"line %d\n" % i for i in range(1, 2001))
    assert all(result == expected for result in results)
    assert len(results) == 11


async def test_an_ended_job_can_be_deleted_and_is_gone(connect: Connect) -> None:
    """Its record, its output, and the promise of its request_id."""
    async with connect() as client:
        job = await client.start(["echo", "hi"], request_id="r")
        await client.wait(job.id)
        await client.delete(job.id)
        with pytest.raises(NotFoundError):
            await client.query(job.id)
        assert [job async for job in client.list()] == []
        again = await client.start(["echo", "hi"], request_id="r")
        assert again.id != job.id


async def test_a_running_job_cannot_be_deleted(connect: Connect) -> None:
    """It is to be stopped first, and the answer says so."""
    async with connect() as client:
        job = await client.start(["sleep", "60"])
        with pytest.raises(FailedPreconditionError, match="stop it before") as caught:
            await client.delete(job.id)
    assert caught.value.reason == "JOB_NOT_ENDED"
