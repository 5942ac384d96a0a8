"""The broker over real workers and a real store: order, slots, idempotency, and what a restart finds."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import trio

from jobd.broker.broker import Broker
from jobd.output.log import LogStore
from jobd.storage.sqlite import open_store
from jobd.worker.errors import (
    AmbiguousIdError,
    JobNotFoundError,
    JobNotRunningError,
    LauncherGoneError,
    OffsetBeyondEndError,
    QueueFullError,
    RequestIdReusedError,
)
from jobd.worker.job import Job, JobSpec, Reason
from jobd.worker.lifecycle import State
from jobd.worker.ports import Source, Start
from jobd.worker.supervisor import Stop
from tests.support.broker import SLEEP, Make, end_of
from tests.support.jobs import collect, put, shell
from tests.support.patience import patient


async def test_with_no_free_worker_a_job_waits_and_says_why(make: Make) -> None:
    """Pending, with a reason; it runs when a slot is free."""
    async with make(slots=1) as broker:
        first = await broker.start(SLEEP, by="alice")
        second = await broker.start(JobSpec(("echo", "hi")), by="alice")
        assert (second.state, second.reason, second.worker) == (State.PENDING, Reason.NO_FREE_WORKER, "")
        assert broker.pending == 1
        await broker.stop(first.id, Stop(by="alice", grace=0))
        assert (await end_of(broker, second)).state is State.SUCCEEDED
        assert broker.pending == 0


async def test_waiting_jobs_run_in_the_order_in_which_they_came(make: Make) -> None:
    """First come, first served; a newcomer does not overtake the queue."""
    async with make(slots=1) as broker:
        jobs = [await broker.start(JobSpec(("true",)), by="alice") for _ in range(10)]
        ends = [await end_of(broker, job) for job in jobs]
        starts = [job.started_at or 0 for job in ends]
        assert starts == sorted(starts)


async def test_several_workers_share_the_jobs(make: Make) -> None:
    """Each knows its own."""
    async with make(workers=3, slots=2) as broker:
        for _ in range(7):
            await broker.start(SLEEP, by="alice")
        views = broker.workers()
        assert [view.name for view in views] == ["local-1", "local-2", "local-3"]
        assert [len(view.jobs) for view in views] == [2, 2, 2]
        assert broker.pending == 1


async def test_a_waiting_job_can_be_stopped(make: Make) -> None:
    """It never runs, and has no pid, output or exit code."""
    async with make(slots=1) as broker:
        await broker.start(SLEEP, by="alice")
        waiting = await broker.start(SLEEP, by="alice")
        stopped = await broker.stop(waiting.id, Stop(by="bob", grace=None))
        assert (stopped.state, stopped.stopped_by, stopped.pid, stopped.exit_code) == (State.STOPPED, "bob", 0, None)
        follower, cell = await broker.follow(waiting.id, Start())
        assert await collect(follower) == {Source.STDOUT: b"", Source.STDERR: b""}
        assert (await cell.ended()).state is State.STOPPED


async def test_a_waiting_job_can_be_followed_before_it_starts(make: Make) -> None:
    """The follower gets the first byte when it comes."""
    async with make(slots=1) as broker:
        first = await broker.start(SLEEP, by="alice")
        second = await broker.start(shell("echo hi"), by="alice")
        got: list[dict[Source, bytes]] = []

        async def follow() -> None:
            follower, _ = await broker.follow(second.id, Start())
            got.append(await collect(follower))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await trio.testing.wait_all_tasks_blocked()
            await broker.stop(first.id, Stop(by="alice", grace=0))
    assert got[0][Source.STDOUT] == b"hi\n"


async def test_too_many_waiting_jobs_are_refused(make: Make) -> None:
    """The queue is bounded; what is refused does not exist."""
    async with make(slots=1, max_pending=1) as broker:
        await broker.start(SLEEP, by="alice")
        await broker.start(SLEEP, by="alice")
        with pytest.raises(QueueFullError):
            await broker.start(SLEEP, by="alice")
        assert len(await broker.page(before=0, states=(), size=10)) == 2


async def test_so_many_jobs_may_wait_and_no_more_whoever_comes_at_the_same_time(make: Make) -> None:
    """Those whose record is still on its way to the disk count too."""
    async with make(slots=1, max_pending=3) as broker:
        await broker.start(SLEEP, by="alice")
        refused: list[QueueFullError] = []

        async def start() -> None:
            try:
                await broker.start(SLEEP, by="alice")
            except QueueFullError as exc:
                refused.append(exc)

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(start)
        assert (broker.pending, len(refused)) == (3, 5)
        assert len(await broker.page(before=0, states=(), size=10)) == 4


async def test_a_resent_start_is_the_same_job(make: Make) -> None:
    """Also when both come at the same time, and after the job has ended, and after a restart."""
    async with make() as broker:
        got: list[Job] = []

        async def start() -> None:
            got.append(await broker.start(shell("echo once"), by="alice", request_id="r1"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            nursery.start_soon(start)
        assert got[0].id == got[1].id
        await end_of(broker, got[0])
        await start()
    async with make() as broker:
        again = await broker.start(shell("echo once"), by="alice", request_id="r1")
        assert {job.id for job in [*got, again]} == {got[0].id}
        assert len(await broker.page(before=0, states=(), size=10)) == 1


async def test_a_resent_start_is_answered_when_a_new_one_would_be_refused(make: Make) -> None:
    """Neither a full queue nor a launcher that has ended denies a job that is there; another request still is an
    error that names the difference, and a new one is refused."""
    async with make(slots=1, max_pending=1) as broker:
        running = await broker.start(SLEEP, by="alice", request_id="r1")
        waiting = await broker.start(SLEEP, by="alice", request_id="r2")
        for refusal in (QueueFullError, LauncherGoneError):
            assert (await broker.start(SLEEP, by="alice", request_id="r1")).id == running.id
            assert (await broker.start(SLEEP, by="alice", request_id="r2")).id == waiting.id
            with pytest.raises(RequestIdReusedError, match="principal"):
                await broker.start(SLEEP, by="bob", request_id="r2")
            for request_id in ("r3", ""):
                with pytest.raises(refusal):
                    await broker.start(SLEEP, by="alice", request_id=request_id)
            broker.refuse_new(LauncherGoneError())
        assert len(await broker.page(before=0, states=(), size=10)) == 2


async def test_a_request_that_comes_again_while_its_job_ends_is_answered_with_the_end(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the store had of it was read before that: nothing would ever change it any more."""
    gate = tmp_path / "gate"
    spec = shell(f"until test -e {gate}; do sleep 0.01; done")
    async with make() as broker:
        first = await broker.start(spec, by="alice", request_id="r1")
        read = broker._store.insert

        async def read_and_be_late(job: Job) -> Job:
            recorded = await read(job)
            assert not recorded.state.terminal
            gate.touch()
            await end_of(broker, first)
            await trio.testing.wait_all_tasks_blocked()
            assert broker.registry.known(first.id) is None
            return recorded

        monkeypatch.setattr(broker._store, "insert", read_and_be_late)
        again = await broker.start(spec, by="alice", request_id="r1")
        assert (again.id, again.state) == (first.id, State.SUCCEEDED)


@pytest.mark.parametrize(
    ("spec", "by", "differs"),
    [
        (JobSpec(("echo", "2")), "alice", "argv"),
        (JobSpec(("echo", "1"), cwd="/tmp"), "alice", "cwd"),
        (JobSpec(("echo", "1"), name="n", env={"A": "b"}), "alice", "name, env"),
        (JobSpec(("echo", "1")), "bob", "principal"),
    ],
)
async def test_a_request_id_for_another_request_is_an_error_that_names_the_difference(
    make: Make, spec: JobSpec, by: str, differs: str
) -> None:
    """Nothing is started."""
    async with make() as broker:
        await broker.start(JobSpec(("echo", "1")), by="alice", request_id="r1")
        with pytest.raises(RequestIdReusedError) as caught:
            await broker.start(spec, by=by, request_id="r1")
        assert caught.value.differs == differs
        assert len(await broker.page(before=0, states=(), size=10)) == 1


async def test_a_caller_that_gives_up_leaves_no_half_started_job(make: Make) -> None:
    """A job that is recorded is also queued: it runs, and is found under its request_id."""
    async with make() as broker:
        with trio.CancelScope() as scope:
            scope.cancel()
            await broker.start(shell("exit 3"), by="alice", request_id="r1")
        assert scope.cancelled_caught
        job = await broker.start(shell("exit 3"), by="alice", request_id="r1")
        assert (await end_of(broker, job)).exit_code == 3


async def test_jobs_are_found_by_a_unique_prefix(make: Make) -> None:
    """Ambiguous and unknown ones are told apart."""
    async with make(slots=40) as broker:
        jobs = [await broker.start(JobSpec(("true",)), by="alice") for _ in range(3)]
        for job in jobs:
            assert (await broker.query(job.id[:8])).id == job.id
            await end_of(broker, job)
            assert (await broker.query(job.id[:13])).id == job.id
        with pytest.raises(JobNotFoundError):
            await broker.query(str(uuid.uuid4()))


async def test_an_ambiguous_prefix_is_an_error(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for more of the id."""
    twins = iter([uuid.UUID("aaaa0000-0000-4000-8000-000000000001"), uuid.UUID("aaaa0000-0000-4000-8000-000000000002")])
    async with make() as broker:
        monkeypatch.setattr(uuid, "uuid4", lambda: next(twins))
        for _ in range(2):
            await broker.start(JobSpec(("true",)), by="alice")
        with pytest.raises(AmbiguousIdError):
            await broker.query("aaaa")


async def test_wait_for_any_and_for_all(make: Make) -> None:
    """Any answers with the first end, all with the last; both give every job asked for, in order."""
    async with make() as broker:
        long = await broker.start(SLEEP, by="alice")
        short = await broker.start(shell("exit 2"), by="alice")
        now = await broker.wait([long.id, short.id], any_of_them=True)
        assert [job.state for job in now] == [State.RUNNING, State.FAILED]
        again = await broker.wait([long.id, short.id], any_of_them=True)  # one had ended before it was asked
        assert again == now
        await broker.stop(long.id, Stop(by="alice", grace=0))
        assert [job.state for job in await broker.wait([long.id, short.id], any_of_them=False)] == [
            State.STOPPED,
            State.FAILED,
        ]


async def test_an_offset_beyond_the_end_is_an_error(make: Make) -> None:
    """It is not an empty stream: whoever asks has bytes that this job never wrote."""
    async with make() as broker:
        job = await end_of(broker, await broker.start(shell("printf 12345"), by="alice"))
        follower, _ = await broker.follow(job.id, Start(offset=5))
        follower.close()
        with pytest.raises(OffsetBeyondEndError):
            await broker.follow(job.id, Start(offset=6))


async def test_a_job_that_does_not_run_takes_no_signal(make: Make) -> None:
    """Neither one that waits nor one that has ended."""
    async with make(slots=1) as broker:
        first = await broker.start(SLEEP, by="alice")
        waiting = await broker.start(SLEEP, by="alice")
        with pytest.raises(JobNotRunningError, match="pending"):
            await broker.signal(waiting.id, 1, by="alice")
        await broker.stop(first.id, Stop(by="alice", grace=0))
        with pytest.raises(JobNotRunningError, match="stopped"):
            await broker.signal(first.id, 1, by="alice")


async def test_progress_is_seen_while_the_job_runs(make: Make) -> None:
    """Query and the list of workers show the bytes recorded so far."""
    async with make() as broker:
        job = await broker.start(shell("printf 12345; sleep 60"), by="alice")
        follower, _ = await broker.follow(job.id, Start())
        await follower.receive()
        follower.close()
        assert (await broker.query(job.id)).output_bytes == 5
        assert [j.output_bytes for view in broker.workers() for j in view.jobs] == [5]


async def test_after_a_restart_everything_is_known(make: Make) -> None:
    """What ended is as it was, with its output; what was stopped by the shutdown says so; what waited runs."""
    async with make(slots=1) as broker:
        done = await end_of(broker, await broker.start(shell("echo kept; exit 3"), by="alice"))
        running = await broker.start(SLEEP, by="alice")
        waiting = await broker.start(shell("echo later"), by="alice")
    async with make(slots=1) as broker:
        assert await broker.query(done.id) == done
        follower, _ = await broker.follow(done.id, Start())
        assert (await collect(follower))[Source.STDOUT] == b"kept\n"
        interrupted = await broker.query(running.id)
        assert (interrupted.state, interrupted.reason) == (State.STOPPED, Reason.WORKER_SHUT_DOWN)
        assert (await end_of(broker, waiting)).state is State.SUCCEEDED


async def test_what_ran_when_the_daemon_was_killed_is_lost(make: Make, tmp_path: Path) -> None:
    """How it ended is not made up; what it had written is there."""
    async with open_store(tmp_path / "jobs") as store:
        gone = Job(str(uuid.uuid4()), SLEEP, State.RUNNING, 1, started_by="alice", worker="local", pid=1)
        await store.insert(gone)
        log = LogStore(tmp_path / "output").create(gone.id)
        await put(log, Source.STDOUT, b"so far")
    async with make() as broker:
        lost = await broker.query(gone.id)
        assert (lost.state, lost.reason, lost.exit_code) == (State.LOST, Reason.DAEMON_LOST, None)
        follower, _ = await broker.follow(gone.id, Start())
        assert (await collect(follower))[Source.STDOUT] == b"so far"
        log._writer.leave()  # what the kernel does for a process that was killed


async def test_a_wait_that_races_the_stop_of_a_waiting_job_ends(make: Make) -> None:
    """Whatever the store said at the moment when it was asked."""
    async with make(slots=1) as broker:
        await broker.start(SLEEP, by="alice")
        for _ in range(30):
            job = await broker.start(SLEEP, by="alice")
            with trio.fail_after(patient(10)):
                async with trio.open_nursery() as nursery:
                    for _ in range(3):
                        nursery.start_soon(end_of_prefix, broker, job.id[:13])
                    await broker.stop(job.id, Stop(by="bob", grace=None))


async def end_of_prefix(broker: Broker, prefix: str) -> None:
    [job] = await broker.wait([prefix], any_of_them=False)
    assert job.state is State.STOPPED


async def test_a_clock_that_jumps_back_changes_no_order(make: Make) -> None:
    """Every job is from earlier than the one before it, by the clock; lists, queues and ends are as ever."""
    times = iter(range(10**18, 0, -(10**12)))
    async with make(slots=1, clock=lambda: next(times)) as broker:
        first = await broker.start(SLEEP, by="alice")
        jobs = [await broker.start(JobSpec(("true",)), by="alice") for _ in range(5)]
        assert [job.id for _, job in await broker.page(before=0, states=(), size=10)] == [
            job.id for job in reversed([first, *jobs])
        ]
        stopped = await broker.stop(jobs[0].id, Stop(by="alice", grace=None))
        assert stopped.ended_at is not None
        assert stopped.ended_at < stopped.created_at
        await broker.stop(first.id, Stop(by="alice", grace=0))
        ends = [await end_of(broker, job) for job in jobs[1:]]
        assert [job.state for job in ends] == [State.SUCCEEDED] * 4
