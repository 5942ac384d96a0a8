"""SIGKILL to the server, at any moment: no job, byte or exit code is lost, and clients go on where they were."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio

from api.client import JobClient
from api.errors import RpcError, UnavailableError
from api.messages import Job, JobState, OutputSource, Verdict
from tests.support.daemon import JobdProgram, descriptors_of, is_alive, jobd_program
from tests.support.jobs import new_mark, processes_with
from tests.support.patience import patient
from tests.support.pki import TestPki
from tests.support.records import make_store

SECONDS: Final = patient(60)
WRITER: Final = """
import random, sys
size, seed = int(sys.argv[1]), int(sys.argv[2])
data = random.Random(seed)
streams = sys.stdout.buffer, sys.stderr.buffer
while size:
    piece = data.randbytes(min(size, data.randrange(1, 100_000)))
    stream = streams[data.randrange(2)]
    stream.write(piece)
    stream.flush()
    size -= len(piece)
"""


def written(size: int, seed: int) -> dict[OutputSource, str]:
    """What the writer writes to each stream, as hashes."""
    data = random.Random(seed)
    sums = {OutputSource.STDOUT: hashlib.sha256(), OutputSource.STDERR: hashlib.sha256()}
    while size:
        piece = data.randbytes(min(size, data.randrange(1, 100_000)))
        sums[(OutputSource.STDOUT, OutputSource.STDERR)[data.randrange(2)]].update(piece)
        size -= len(piece)
    return {source: sum_.hexdigest() for source, sum_ in sums.items()}


async def read(client: JobClient, job_id: str) -> tuple[dict[OutputSource, str], Verdict]:
    """All of a job's output as hashes, without a gap, and its verdict."""
    sums = {OutputSource.STDOUT: hashlib.sha256(), OutputSource.STDERR: hashlib.sha256()}
    end = 0
    async with client.stream(job_id) as output:
        async for chunk in output:
            assert chunk.offset == end
            end += len(chunk.data)
            sums[OutputSource(chunk.source)].update(chunk.data)
    assert output.verdict is not None
    assert output.verdict.end_offset == end
    return {source: sum_.hexdigest() for source, sum_ in sums.items()}, output.verdict


def connect(pki: TestPki, jobd: JobdProgram):  # type: ignore[no-untyped-def] # the context manager of JobClient.connect
    return JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS)


async def test_followers_of_a_writing_job_come_through_kills(pki: TestPki, tmp_path: Path) -> None:
    """Random bytes to both streams, three followers, and kills meanwhile: every byte, once, and the right verdict."""
    size, seed = 24_000_000, 7
    results: list[tuple[dict[OutputSource, str], Verdict]] = []
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            job = await client.start([sys.executable, "-c", WRITER, str(size), str(seed)])

            async def follow() -> None:
                results.append(await read(client, job.id))

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(follow)
                for part in range(1, 5):
                    await until_recorded(client, job.id, size * part // 6)
                    await trio.to_thread.run_sync(jobd.kill_server)
    assert [sums for sums, _ in results] == [written(size, seed)] * 3
    assert {(v.state, v.exit_code, v.dropped_bytes) for _, v in results} == {(JobState.SUCCEEDED, 0, 0)}


async def until_recorded(client: JobClient, job_id: str, count: int) -> None:
    """Wait until so many bytes of the job's output are recorded, or the job has ended."""
    while True:
        job = await client.query(job_id)
        if job.output_bytes >= count or job.state != JobState.RUNNING:
            return


async def test_an_exit_while_no_server_runs_is_known(pki: TestPki, tmp_path: Path) -> None:
    """The launcher has reaped it, with its code and all that it wrote; the next server records the end."""
    gate = tmp_path / "gate"
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            job = await client.start(["sh", "-c", f"until test -e {gate}; do sleep 0.01; done; echo late; exit 5"])
            await trio.to_thread.run_sync(jobd.kill_server)
            gate.touch()
            [ended] = await client.wait(job.id)
            sums, _ = await read(client, job.id)
    assert (ended.state, ended.exit_code, ended.pid) == (JobState.FAILED, 5, job.pid)
    assert sums[OutputSource.STDOUT] == hashlib.sha256(b"late\n").hexdigest()


async def test_damage_to_old_records_keeps_no_server_from_taking_over(pki: TestPki, tmp_path: Path) -> None:
    """The store is read as a whole by the first server of a launcher; the next ones have running jobs to go on with."""
    path = make_store(tmp_path / "state", 500) / "jobs.sqlite3"
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            job = await client.start(["sleep", "1000"])
            with path.open("r+b") as file:
                file.seek(file.read().index(b"target-100") // 4096 * 4096)
                file.write(b"\xff" * 4096)
            await trio.to_thread.run_sync(jobd.kill_server)
            assert (await client.query(job.id)).pid == job.pid
            assert (await client.query(job.id)).state == JobState.RUNNING
    with pytest.raises(AssertionError, match="left as it is"), jobd_program(pki, tmp_path / "state"):
        pass


async def test_a_start_that_is_sent_again_runs_once(pki: TestPki, tmp_path: Path) -> None:
    """Jobs with known codes through a client that retries, and kills meanwhile: each ran exactly once, as it should."""
    marks = tmp_path / "marks"
    marks.mkdir()
    ended: dict[int, Job] = {}
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:

            async def one(number: int) -> None:
                script = f"echo x >> {marks}/{number}; echo {number}; exit {number % 50}"
                job = await client.start(["sh", "-c", script])
                [ended[number]] = await client.wait(job.id)

            async with trio.open_nursery() as nursery:
                limit = trio.CapacityLimiter(8)

                async def limited(number: int) -> None:
                    async with limit:
                        await one(number)

                for number in range(60):
                    nursery.start_soon(limited, number)
                for done in (5, 15, 30, 45):
                    await until_ended(client, done)
                    await trio.to_thread.run_sync(jobd.kill_server)
            jobs = [job async for job in client.list()]
    assert {number: (marks / str(number)).read_text() for number in range(60)} == dict.fromkeys(range(60), "x\n")
    assert {number: job.exit_code for number, job in ended.items()} == {number: number % 50 for number in range(60)}
    assert {job.output_bytes for job in ended.values()} == {2, 3}
    assert len(jobs) == 60


async def until_ended(client: JobClient, count: int) -> None:
    """Wait until so many jobs have succeeded or failed."""
    ended = [JobState.SUCCEEDED, JobState.FAILED]
    while len([job async for job in client.list(states=ended)]) < count:
        pass


async def test_a_stop_goes_on_after_a_kill(pki: TestPki, tmp_path: Path) -> None:
    """Whoever asked gets the answer, and no process is left."""
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            mark = new_mark()
            script = "trap '' TERM; echo ready; while :; do sleep 0.01; done"
            job = await client.start(["sh", "-c", script], env={"MARK": mark})
            async with client.stream(job.id) as output:
                await anext(output)
            stopped: list[Job] = []

            async def stop() -> None:
                stopped.append(await client.stop(job.id, grace=3))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(stop)
                while not (await client.query(job.id)).stopping:  # each query is a question to the server
                    pass
                await trio.to_thread.run_sync(jobd.kill_server)
    assert (stopped[0].state, stopped[0].stopped_by, stopped[0].signal) == (JobState.STOPPED, "alice", 9)
    assert processes_with(mark) == []


async def test_a_stop_keeps_its_grace_over_a_kill(pki: TestPki, tmp_path: Path) -> None:
    """What was asked for holds, not the default; and a second, sooner stop still counts."""
    with jobd_program(pki, tmp_path / "state", "--grace", "0") as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            job = await client.start(
                ["sh", "-c", "exec 2>/dev/null; trap 'echo asked' TERM; echo ready; while :; do sleep 0.01; done"]
            )
            async with client.stream(job.id) as output, trio.open_nursery() as nursery:
                assert (await anext(output)).data == b"ready\n"
                nursery.start_soon(partial(client.stop, job.id, grace=1000))
                assert (await anext(output)).data == b"asked\n"
                await trio.to_thread.run_sync(jobd.kill_server)
                assert (await anext(output)).data == b"asked\n"  # the next server asks again
                still = await client.query(job.id)
                assert (still.state, still.stopping) == (JobState.RUNNING, True)
                stopped = await client.stop(job.id, grace=0)
    assert (stopped.state, stopped.signal, stopped.stopped_by) == (JobState.STOPPED, 9, "alice")


async def test_a_sent_signal_is_remembered_over_a_kill(pki: TestPki, tmp_path: Path) -> None:
    """When it ends the job later, the job counts as stopped by whoever sent it."""
    script = (
        "import signal, pathlib, time; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]); print(flush=True)\n"
        f"while not pathlib.Path({str(tmp_path / 'gate')!r}).exists(): time.sleep(0.01)\n"
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1]); time.sleep(1000)"
    )
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            job = await client.start([sys.executable, "-c", script])
            async with client.stream(job.id) as output:
                await anext(output)
            await client.signal(job.id, signal.SIGUSR1)
            await client.start(["true"])  # recorded after the signal was noted
            await trio.to_thread.run_sync(jobd.kill_server)
            (tmp_path / "gate").touch()
            [ended] = await client.wait(job.id)
    assert (ended.state, ended.stopped_by, ended.signal) == (JobState.STOPPED, "alice", signal.SIGUSR1)


async def test_what_waited_waits_again_in_order(pki: TestPki, tmp_path: Path) -> None:
    """The running job keeps its slot; the others run after it, first come, first served."""
    with jobd_program(pki, tmp_path / "state", "--slots", "1") as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            first = await client.start(["sleep", "1000"])
            waiting = [await client.start(["true"]) for _ in range(5)]
            await trio.to_thread.run_sync(jobd.kill_server)
            assert (await client.query(first.id)).pid == first.pid
            assert [(await client.query(job.id)).state for job in waiting] == [JobState.PENDING] * 5
            await client.stop(first.id, grace=0)
            ended = await client.wait(*[job.id for job in waiting])
    starts = [job.started_at for job in ended]
    assert starts == sorted(starts)  # type: ignore[type-var] # all have started


async def test_the_port_and_the_lock_stay_ours_meanwhile(pki: TestPki, tmp_path: Path) -> None:
    """The launcher keeps both: clients that come in between are served by the next server."""
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            await client.workers()
            for _ in range(3):
                await trio.to_thread.run_sync(jobd.kill_server)
                await client.workers()
        assert "the server was ended by signal 9" in jobd.log.read_text()


async def test_a_launcher_that_nobody_listens_to_goes_on(pki: TestPki, tmp_path: Path) -> None:
    """Its stderr is a pipe whose reader has gone, as after jobd 2>&1 | head: jobs do not depend on it."""
    reading, writing = os.pipe()
    with jobd_program(pki, tmp_path / "state", stderr=writing) as jobd, trio.fail_after(SECONDS):
        os.close(writing)
        os.close(reading)
        async with connect(pki, jobd) as client:
            job = await client.start(["sh", "-c", "sleep 0.5; exit 6"])
            for _ in range(2):
                await trio.to_thread.run_sync(jobd.kill_server)
                await client.workers()
            assert [ended.exit_code for ended in await client.wait(job.id)] == [6]


async def test_an_end_that_was_recorded_and_not_acknowledged_is_acknowledged(pki: TestPki, tmp_path: Path) -> None:
    """By the next server: the launcher does not remember it for ever."""
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            await client.workers()
            before = descriptors_of(jobd.launcher)
            for _ in range(6):
                job = await client.start(["true"])
                await client.wait(job.id)
                await trio.to_thread.run_sync(jobd.kill_server)
            await client.workers()
            job = await client.start(["true"])
            await client.wait(job.id)
            for _ in range(100):
                after = descriptors_of(jobd.launcher)
                if after <= before:
                    break
                await trio.sleep(0.05)
    assert after <= before


async def test_an_upgrade_touches_no_job(pki: TestPki, tmp_path: Path) -> None:
    """SIGHUP: launcher and server are replaced, the pids of launcher and jobs stay, and a follower goes on."""
    size, seed = 20_000_000, 11
    results: list[tuple[dict[OutputSource, str], Verdict]] = []
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            job = await client.start([sys.executable, "-c", WRITER, str(size), str(seed)])
            quiet = await client.start(["sleep", "1000"])

            async def follow() -> None:
                results.append(await read(client, job.id))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow)
                for part in (1, 2):
                    await until_recorded(client, job.id, size * part // 4)
                    before = await trio.to_thread.run_sync(jobd.server_pid)
                    jobd.process.send_signal(signal.SIGHUP)
                    while is_alive(before):
                        await trio.sleep(0.01)
            assert (await client.query(quiet.id)).pid == quiet.pid
            assert (await client.query(quiet.id)).state == JobState.RUNNING
            [stopped] = [await client.stop(quiet.id)]
            assert stopped.signal == signal.SIGTERM  # the exit code of a job from before is still learned
        assert jobd.process.poll() is None
        assert jobd.log.read_text().count("executed anew") == 2
    assert [sums for sums, _ in results] == [written(size, seed)]


async def test_without_its_launcher_a_server_sees_the_jobs_out(pki: TestPki, tmp_path: Path) -> None:
    """Jobs go on and are read to the end; their exit code is not made up; new ones are refused; then it ends."""
    gate = tmp_path / "gate"
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=0) as client:
            job = await client.start(
                ["sh", "-c", f"until test -e {gate}; do sleep 0.01; done; echo last words; exit 5"]
            )
            server = await trio.to_thread.run_sync(jobd.server_pid)
            os.kill(jobd.launcher, signal.SIGKILL)
            await trio.to_thread.run_sync(jobd.process.wait)
            with pytest.raises(UnavailableError, match="the launcher has ended"):
                await start_until_refused(client)
            async with client.stream(job.id) as output:
                gate.touch()
                text = b"".join([chunk.data async for chunk in output])
            assert output.verdict is not None
            with pytest.raises(RpcError):  # it ends when the last job has
                await query_for_ever(client, job.id)
    assert text == b"last words\n"
    assert (output.verdict.state, output.verdict.reason) == (JobState.LOST, "LAUNCHER_LOST")
    assert output.verdict.exit_code is None
    while is_alive(server):
        await trio.sleep(0.01)


async def start_until_refused(client: JobClient) -> None:
    """The server needs a moment to hear that its launcher is gone."""
    while True:
        await client.start(["true"])


async def query_for_ever(client: JobClient, job_id: str) -> None:
    while True:
        await client.query(job_id)
