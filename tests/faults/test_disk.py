"""A disk that fills up or fails: pipes are drained, what is dropped is counted, new jobs are refused, jobd stays."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Final

import pytest
import trio

from api.client import JobClient
from api.errors import DataLossError, UnavailableError
from api.messages import Job, JobState
from tests.support.daemon import JobdProgram, is_alive, jobd_program, until_dead
from tests.support.disk import (
    fail,
    fill,
    loop_disk,
    needs_ext4,
    needs_root,
    needs_strace,
    small_disk,
    system_calls_fail,
)
from tests.support.patience import patient
from tests.support.pki import TestPki

SECONDS: Final = patient(60)
BEFORE, AFTER, CODE = 100_000, 3_000_000, 7
# Writes, waits for a file, writes more than any pipe holds, and exits: only if somebody takes it all.
WRITER: Final = """
import os, sys, time
before, after, gate, code = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
sys.stdout.buffer.write(b"b" * before)
sys.stdout.buffer.flush()
while not os.path.exists(gate):
    time.sleep(0.01)
sys.stdout.buffer.write(b"a" * after)
sys.stdout.buffer.flush()
sys.exit(code)
"""


def connect(pki: TestPki, jobd: JobdProgram, retry_for: float = SECONDS):  # type: ignore[no-untyped-def] # the context manager of JobClient.connect
    return JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=retry_for)


async def writer(client: JobClient, gate: Path) -> Job:
    """A job that has written its first part, which is recorded, and waits for the gate."""
    job = await client.start([sys.executable, "-c", WRITER, str(BEFORE), str(AFTER), str(gate), str(CODE)])
    while (await client.query(job.id)).output_bytes < BEFORE:
        await trio.sleep(0.01)
    return job


async def until_gone(pid: int) -> None:
    """The job's process has ended, by itself."""
    while is_alive(pid):
        await trio.sleep(0.01)


async def until_drained(client: JobClient, job: Job) -> Job:
    """The process has ended, by itself, and all that it wrote was recorded or counted."""
    await until_gone(job.pid)
    while True:
        seen = await client.query(job.id)
        if seen.output_bytes + seen.dropped_bytes == BEFORE + AFTER:
            return seen
        await trio.sleep(0.01)


async def until_refused(pki: TestPki, jobd: JobdProgram) -> UnavailableError:
    """Start jobs until one is refused: the store may have room for some more."""
    async with connect(pki, jobd, retry_for=0) as client:
        with pytest.raises(UnavailableError) as caught:
            await start_for_ever(client)
    return caught.value


async def start_for_ever(client: JobClient) -> None:
    while True:
        await client.start(["true"])


async def whole_story(client: JobClient, job: Job) -> tuple[int, int, int]:
    """Bytes that a stream of a job gives, those that its gaps tell of, and those that its verdict does."""
    async with client.stream(job.id) as output:
        size = sum([len(chunk.data) async for chunk in output])
    assert output.verdict is not None
    assert (output.verdict.state, output.verdict.exit_code) == (JobState.FAILED, CODE)
    assert output.verdict.end_offset == size
    return size, sum(gap.dropped_bytes for gap in output.gaps), output.verdict.dropped_bytes


@needs_root
async def test_a_disk_that_fills_up_costs_counted_bytes_and_refused_jobs(pki: TestPki, tmp_path: Path) -> None:
    """A job that writes on is drained and exits; jobs that had ended can be read; with room, its end is recorded."""
    gate = tmp_path / "gate"
    followed: list[tuple[int, int, int]] = []
    with small_disk(tmp_path / "state") as disk, jobd_program(pki, disk) as jobd, trio.fail_after(SECONDS):
        server = await trio.to_thread.run_sync(jobd.server_pid)
        async with connect(pki, jobd) as client, trio.open_nursery() as nursery:
            job = await writer(client, gate)

            async def follow() -> None:
                followed.append(await whole_story(client, job))

            nursery.start_soon(follow)
            filler = fill(disk)
            refusal = await until_refused(pki, jobd)
            assert (refusal.reason, refusal.message) == (
                "STORE_UNAVAILABLE",
                "the server cannot record jobs now; its log says why",
            )
            gate.touch()
            await until_drained(client, job)
            while not (seen := await client.query(job.id)).message:
                await trio.sleep(0.05)
            assert (seen.state, seen.message) == (
                JobState.RUNNING,
                "it has ended, and how is told when that can be recorded",
            )
            assert seen.output_bytes + seen.dropped_bytes == BEFORE + AFTER
            assert seen.dropped_bytes > AFTER / 2
            filler.unlink()
            [ended] = await client.wait(job.id)
            assert (ended.exit_code, ended.dropped_bytes) == (CODE, seen.dropped_bytes)
            again = await client.start(["sh", "-c", "echo back; exit 3"])
            [again] = await client.wait(again.id)
            assert (again.exit_code, again.output_bytes) == (3, 5)
            late = await whole_story(client, job)
        assert await trio.to_thread.run_sync(jobd.server_pid) == server
    assert [late] == followed == [(ended.output_bytes, ended.dropped_bytes, ended.dropped_bytes)]
    said = [entry["event"] for entry in jobd.logged()]
    for event in ("the job store cannot be written", "the job store can be written again"):
        assert said.count(event) == 1
    assert "output cannot be recorded and is dropped" in said


@needs_root
async def test_a_server_that_is_killed_on_a_full_disk_comes_back_and_goes_on(pki: TestPki, tmp_path: Path) -> None:
    """It adopts what runs, drains it, refuses what is new; what the one before dropped is still counted."""
    gates = [tmp_path / "gate-0", tmp_path / "gate-1"]
    with small_disk(tmp_path / "state") as disk, jobd_program(pki, disk) as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            jobs = [await writer(client, gate) for gate in gates]
            filler = fill(disk)
            gates[0].touch()
            dropped = (await until_drained(client, jobs[0])).dropped_bytes  # its end cannot be recorded
            server = await trio.to_thread.run_sync(jobd.server_pid)
            launcher = jobd.launcher
            os.kill(launcher, signal.SIGSTOP)
            os.kill(server, signal.SIGKILL)
            await until_gone(server)
            room = filler.stat().st_size + (disk / "jobs.sqlite3-shm").stat().st_size
            (disk / "jobs.sqlite3-shm").unlink()  # what the next one would make room with, somebody else takes
            while filler.stat().st_size < room:
                fill(disk)
            os.kill(launcher, signal.SIGCONT)
            assert (await client.query(jobs[0].id)).dropped_bytes == dropped > AFTER / 2
            await until_refused(pki, jobd)
            gates[1].touch()
            await until_drained(client, jobs[1])
            filler.unlink()
            ended = await client.wait(*[job.id for job in jobs])
            for job in ended:
                assert (job.exit_code, job.output_bytes + job.dropped_bytes) == (CODE, BEFORE + AFTER)
                size, gaps, lost = await whole_story(client, job)
                assert (size, gaps, lost) == (job.output_bytes, job.dropped_bytes, job.dropped_bytes)


@needs_root
async def test_jobd_does_not_start_on_a_full_disk_and_says_so(pki: TestPki, tmp_path: Path) -> None:
    """On a new directory and on an old one: one line; with room, it starts, and what was there is there."""
    from tests.integration.test_jobd_program import clean_environment, flags_for, refused

    with small_disk(tmp_path / "state") as disk:
        filler = fill(disk)
        said = refused(flags_for(pki, disk), clean_environment(tmp_path))
        assert f"the job store {disk}/jobs.sqlite3 cannot be used now" in said
        assert "is the disk full" in said
        filler.unlink()
        with jobd_program(pki, disk) as jobd, trio.fail_after(SECONDS):
            async with connect(pki, jobd) as client:
                job = await client.start(["echo", "kept"])
                await client.wait(job.id)
        before = (disk / "jobs.sqlite3").read_bytes()
        filler = fill(disk)
        said = refused(flags_for(pki, disk), clean_environment(tmp_path))
        assert "is the disk full" in said
        assert (disk / "jobs.sqlite3").read_bytes() == before
        filler.unlink()
        with jobd_program(pki, disk) as jobd, trio.fail_after(SECONDS):
            async with connect(pki, jobd) as client:
                assert (await client.query(job.id)).output_bytes == 5


@needs_root
@needs_ext4
async def test_a_disk_that_goes_read_only_is_read_and_drained(pki: TestPki, tmp_path: Path) -> None:
    """As ext4 does after an error. Jobs are drained to their end, by the next server too; what was recorded is read."""
    gates = [tmp_path / "gate-0", tmp_path / "gate-1"]
    with loop_disk(tmp_path / "state") as disk, jobd_program(pki, disk) as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            old = await client.start(["echo", "kept"])
            await client.wait(old.id)
            jobs = [await writer(client, gate) for gate in gates]
            fail(disk)
            gates[0].touch()
            seen = await until_drained(client, jobs[0])
            await until_refused(pki, jobd)
            assert (seen.output_bytes, seen.dropped_bytes) == (BEFORE, AFTER)
            await trio.to_thread.run_sync(jobd.kill_server)
            await until_refused(pki, jobd)
            gates[1].touch()
            seen = await until_drained(client, jobs[1])
            assert (seen.output_bytes, seen.dropped_bytes) == (BEFORE, AFTER)
            async with client.stream(old.id) as output:
                assert b"".join([chunk.data async for chunk in output]) == b"kept\n"
        jobd.crash()  # an orderly end would wait for the store


@needs_strace
async def test_a_disk_that_fails_for_a_while_costs_counted_bytes(pki: TestPki, tmp_path: Path) -> None:
    """EIO from every write: drained, counted, refused; and when the disk works again, so does everything."""
    gate = tmp_path / "gate"
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        server = await trio.to_thread.run_sync(jobd.server_pid)
        async with connect(pki, jobd) as client:
            job = await writer(client, gate)
            with system_calls_fail(server, *(f"{call}:error=EIO" for call in ("pwrite64", "splice", "fdatasync"))):
                refusal = await until_refused(pki, jobd)
                gate.touch()
                await until_drained(client, job)
            assert refusal.reason == "STORE_UNAVAILABLE"
            [ended] = await client.wait(job.id)
            assert (ended.exit_code, ended.output_bytes, ended.dropped_bytes) == (CODE, BEFORE, AFTER)
            assert await whole_story(client, job) == (BEFORE, AFTER, AFTER)
            [again] = await client.wait((await client.start(["false"])).id)
            assert again.exit_code == 1
        assert await trio.to_thread.run_sync(jobd.server_pid) == server


async def test_a_state_directory_that_is_taken_away_is_not_made_again(pki: TestPki, tmp_path: Path) -> None:
    """New jobs are refused, those that run are drained and exit; put back, all goes on. Deleted, it is said."""
    gate, state, away = tmp_path / "gate", tmp_path / "state", tmp_path / "away"
    with jobd_program(pki, state) as jobd, trio.fail_after(SECONDS):
        pids = [jobd.launcher, await trio.to_thread.run_sync(jobd.server_pid)]
        async with connect(pki, jobd) as client:
            job = await writer(client, gate)
            state.rename(away)
            await until_refused(pki, jobd)
            gate.touch()
            await until_drained(client, job)
            assert not state.exists()
            away.rename(state)
            [ended] = await client.wait(job.id)
            assert (ended.exit_code, ended.output_bytes, ended.dropped_bytes) == (CODE, BEFORE + AFTER, 0)
            assert await whole_story(client, job) == (BEFORE + AFTER, 0, 0)
            shutil.rmtree(state)
            await until_refused(pki, jobd)
            with pytest.raises(DataLossError):
                await whole_story(client, job)
            assert not state.exists()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until_dead(*pids)
    assert "was deleted or replaced" in jobd.log.read_text()
