"""A job that writes more than it may: what is over is dropped, or it is stopped, as was asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from api.client import JobClient
from api.messages import Job, JobState, Limits
from tests.support.daemon import JobdProgram, jobd_program
from tests.support.jobs import new_mark, processes_with
from tests.support.patience import patient
from tests.support.pki import TestPki

SECONDS = patient(60)
LIMIT = 100_000
STOPPED = Limits(output_bytes=LIMIT, stop_at_output=True)


@asynccontextmanager
async def running(pki: TestPki, directory: Path, *flags: str) -> AsyncIterator[tuple[JobdProgram, JobClient]]:
    """A jobd and a writer."""
    with jobd_program(pki, directory / "state", *flags) as jobd, trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS) as client:
            yield jobd, client


def is_stopped_for_its_output(job: Job) -> None:
    """State, reason and message are its own; so much was recorded, and the rest counted."""
    assert (job.state, job.reason) == (JobState.OUTPUT_LIMIT, "OUTPUT_LIMIT")
    assert f"more output than the {LIMIT} bytes that it may" in job.message
    assert job.output_bytes == LIMIT
    assert job.dropped_bytes > 0
    assert job.stopped_by == ""


async def test_a_flood_is_stopped(pki: TestPki, tmp_path: Path) -> None:
    """With a receipt, as any stop; its neighbour, for which that was not asked, goes on to its end."""
    async with running(pki, tmp_path) as (_, client):
        mark = new_mark()
        flood = await client.start(["sh", "-c", "yes | { read line; yes; }"], env={"MARK": mark}, limits=STOPPED)
        script = f"head -c {2 * LIMIT} /dev/zero; exit 3"
        neighbour = await client.start(["sh", "-c", script], limits=Limits(output_bytes=LIMIT))
        [ended] = await client.wait(flood.id)
        is_stopped_for_its_output(ended)
        assert processes_with(mark) == []
        receipt = (await client.query(flood.id)).stop_receipt
        assert receipt is not None
        assert receipt.empty
        assert [each.command for each in receipt.processes].count("yes") == 2
        [ended] = await client.wait(neighbour.id)
        assert (ended.state, ended.exit_code) == (JobState.FAILED, 3)
        assert (ended.output_bytes, ended.dropped_bytes) == (LIMIT, LIMIT)


async def test_one_that_was_done_before_it_was_stopped_wrote_too_much_all_the_same(
    pki: TestPki, tmp_path: Path
) -> None:
    """However fast it was; its exit code is kept. One byte less is within the limit."""
    async with running(pki, tmp_path) as (_, client):
        jobs = [await client.start(["head", "-c", str(LIMIT + more), "/dev/zero"], limits=STOPPED) for more in (1, 0)]
        over, within = [(await client.wait(job.id))[0] for job in jobs]
        is_stopped_for_its_output(over)
        assert (within.state, within.output_bytes, within.dropped_bytes) == (JobState.SUCCEEDED, LIMIT, 0)


async def test_a_server_that_is_killed_does_not_give_it_more(pki: TestPki, tmp_path: Path) -> None:
    """Neither before the limit is passed, nor between the first signal and the last."""
    gate = tmp_path / "gate"
    patient = f"head -c {LIMIT} /dev/zero; until test -e {gate}; do sleep 0.01; done; echo more; exec sleep 1000"
    async with running(pki, tmp_path, "--grace", "3") as (jobd, client):
        waits = await client.start(["sh", "-c", patient], limits=STOPPED)
        deaf = await client.start(["sh", "-c", "trap '' TERM; yes"], limits=STOPPED)
        while not (await client.query(deaf.id)).stopping or (await client.query(waits.id)).output_bytes < LIMIT:
            await trio.sleep(0.01)
        await trio.to_thread.run_sync(jobd.kill_server)
        gate.touch()
        for job in await client.wait(waits.id, deaf.id):
            is_stopped_for_its_output(job)
            receipt = (await client.query(job.id)).stop_receipt
            assert receipt is not None
            assert receipt.empty


async def test_who_asked_for_the_end_first_is_named(pki: TestPki, tmp_path: Path) -> None:
    """A stop by somebody is one, though the job floods meanwhile."""
    async with running(pki, tmp_path) as (_, client):
        job = await client.start(["sh", "-c", "trap 'yes' TERM; echo; while :; do sleep 0.01; done"], limits=STOPPED)
        async with client.stream(job.id) as output:
            await anext(output)
            stopped = await client.stop(job.id, grace=1)
        assert (stopped.state, stopped.stopped_by, stopped.output_bytes) == (JobState.STOPPED, "alice", LIMIT)


async def test_an_operator_can_have_it_so_for_all(pki: TestPki, tmp_path: Path) -> None:
    """In the configuration: as a default, and for everybody, whatever they ask for."""
    file = tmp_path / "jobd.toml"
    file.write_text(f"[limits]\noutput = {LIMIT}\n[limits.max]\nstop-at-output = true\n")
    async with running(pki, tmp_path, "--config", str(file)) as (_, client):
        [ended] = await client.wait((await client.start(["yes"])).id)
        is_stopped_for_its_output(ended)
