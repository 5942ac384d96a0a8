"""Many machines as one: any broker takes a call, and the job runs where there is room."""

from __future__ import annotations

import pytest

from api.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError
from api.messages import JobState
from jobd.service import translate
from tests.support.pool import Pool
from tests.support.refusals import stdout_of


async def test_a_job_runs_somewhere_and_any_broker_tells_of_it(pool: Pool) -> None:
    """Start at one machine; query, wait, stream and list at another."""
    await pool.start("m1", slots=1)
    await pool.start("m2", slots=1)
    async with pool.client("m1") as one, pool.client("m2") as two:
        jobs = [await one.start(["sh", "-c", "echo $JOBD_JOB_ID; exit 3"]) for _ in range(4)]
        ended = await two.wait(*(job.id for job in jobs))
        assert [(job.state, job.exit_code) for job in ended] == [(JobState.FAILED, 3)] * 4
        for job in jobs:
            assert await stdout_of(two, job.id) == f"{job.id}\n".encode()
            assert await stdout_of(one, job.id) == f"{job.id}\n".encode()
            assert (await one.query(job.id)).exit_code == (await two.query(job.id)).exit_code == 3
        assert [job.id async for job in two.list()] == [job.id for job in reversed(jobs)]


async def test_a_job_that_runs_is_steered_from_any_broker(pool: Pool) -> None:
    """Query says that it runs, List too; its output comes live; signal, attach and stop reach it."""
    await pool.start("m1")
    await pool.start("m2", worker=False)
    async with pool.client("m2") as client:
        job = await client.start(
            ["sh", "-c", "trap 'echo usr1; exec sleep 1000' USR1; echo ready; while :; do :; done"]
        )
        async with client.stream(job.id) as output:
            assert (await anext(output)).data == b"ready\n"
            running = await client.query(job.id)
            assert (running.state, running.worker) == (JobState.RUNNING, "m1")
            assert [each.state async for each in client.list()] == [JobState.RUNNING]
            assert [each.id async for each in client.list(states=[JobState.RUNNING])] == [job.id]
            assert [each.id async for each in client.list(states=[JobState.SUCCEEDED])] == []
            await client.signal(job.id[:8], 10)
            assert (await anext(output)).data == b"usr1\n"
        stopped = await client.stop(job.id, grace=0)
        assert (stopped.state, stopped.stopped_by) == (JobState.STOPPED, "alice")
        assert stopped.stop_receipt is not None
        echo = await client.start(["cat"], attachable=True)
        async with client.attach(echo.id) as attachment:
            await attachment.send(b"hello")
            assert (await anext(attachment)).data == b"hello"
            await attachment.close_stdin()
            assert [chunk async for chunk in attachment] == []
        assert [job.exit_code for job in await client.wait(echo.id)] == [0]


async def test_a_job_of_which_its_worker_says_nothing_is_listed(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker tells of so many jobs only; the others may be running, and are found under that. A job that has ended
    meanwhile is not."""
    monkeypatch.setattr(translate, "MAX_JOBS_OF_WORKER", 1)
    await pool.start("m1")
    async with pool.client() as client:
        jobs = [await client.start(["sh", "-c", "echo ready; exec sleep 1000"]) for _ in range(3)]
        for job in jobs:
            async with client.stream(job.id) as output:
                assert (await anext(output)).data == b"ready\n"
        ended = await client.start(["true"])
        await client.wait(ended.id)
        listed = [each.id async for each in client.list(states=[JobState.RUNNING])]
        assert listed == [job.id for job in reversed(jobs)]
        for job in jobs:
            await client.stop(job.id, grace=0)


async def test_a_job_that_waits_says_why_and_can_be_stopped(pool: Pool) -> None:
    """For a label, and for a slot; it then never runs, and its stream ends with the verdict."""
    await pool.start("m1", slots=1, labels="gpu=a100")
    async with pool.client() as client:
        nowhere = await client.start(["true"], worker_labels={"gpu": "h100"})
        while (await client.query(nowhere.id)).message != "no worker has the label gpu=h100":
            pass  # the worker is about to be seen
        with pytest.raises(FailedPreconditionError) as caught:
            await client.signal(nowhere.id, 10)
        assert caught.value.reason == "JOB_NOT_RUNNING"
        first = await client.start(["sleep", "1000"], worker_labels={"gpu": "a100"})
        second = await client.start(["true"])
        stopped = await client.stop(nowhere.id)
        assert (stopped.state, stopped.stopped_by) == (JobState.STOPPED, "alice")
        async with client.stream(nowhere.id) as output:
            assert [chunk async for chunk in output] == []
        assert output.verdict is not None
        assert output.verdict.state == JobState.STOPPED
        for refused in (client.signal(nowhere.id, 10), client.attach(nowhere.id).__aenter__()):
            with pytest.raises(FailedPreconditionError):
                await refused
        await client.stop(first.id, grace=0)
        assert [job.exit_code for job in await client.wait(second.id)] == [0]


async def test_workers_are_seen_drained_and_undrained(pool: Pool) -> None:
    """With their labels and jobs; a drained one gets none, and those of it go on."""
    await pool.start("m1", slots=3, labels="zone=a")
    async with pool.client() as client:
        job = await client.start(["sleep", "1000"], name="long")
        while (await client.query(job.id)).state != JobState.RUNNING:
            pass
        (worker,) = (await client.workers()).workers
        assert (worker.name, worker.slots, worker.labels, worker.running) == ("m1", 3, {"zone": "a"}, 1)
        assert [each.spec.name for each in worker.jobs] == ["long"]
        await client.drain("m1")
        waiting = await client.start(["true"])
        while (await client.query(waiting.id)).message != "1 worker is drained":
            pass
        assert (await client.query(job.id)).state == JobState.RUNNING
        await client.undrain("m1")
        assert [each.exit_code for each in await client.wait(waiting.id)] == [0]
        await client.stop(job.id, grace=0)
        with pytest.raises(NotFoundError, match="the pool knows no worker 'm9'"):
            await client.drain("m9")


async def test_a_request_that_is_sent_again_is_the_same_job(pool: Pool) -> None:
    """At any broker; another request under that name is refused."""
    await pool.start("m1")
    await pool.start("m2")
    async with pool.client("m1") as one, pool.client("m2") as two:
        job = await one.start(["true"], request_id="r1")
        assert (await two.start(["true"], request_id="r1")).id == job.id
        with pytest.raises(AlreadyExistsError):
            await two.start(["false"], request_id="r1")


async def test_a_job_that_is_deleted_is_gone_everywhere(pool: Pool) -> None:
    """Its record, its output, its request_id."""
    await pool.start("m1")
    await pool.start("m2", worker=False)
    async with pool.client("m1") as one, pool.client("m2") as two:
        job = await one.start(["echo", "x"], request_id="again")
        with pytest.raises(FailedPreconditionError):
            await one.delete((await one.start(["sleep", "1000"])).id)
        await one.wait(job.id)
        await two.delete(job.id)
        for client in (one, two):
            with pytest.raises(NotFoundError):
                await client.query(job.id)
        assert (await two.start(["echo", "x"], request_id="again")).id != job.id
