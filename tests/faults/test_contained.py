"""A stop is a proof, a limit holds, and the end of a job says why: with a real jobd, in each kind of containment.

The kind ``auto`` is what the machine has: control groups, if this user may make some. All trees are there at once here;
each of them alone, in each kind and for each end, is the session ``matrix``.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import trio

from api.errors import InvalidArgumentError
from api.messages import Job, JobState, Limits
from tests.faults.soak import see_that_nothing_is_left
from tests.faults.trees import (
    BOMB,
    KINDS,
    PROOFS,
    SECONDS,
    TREES,
    can_be,
    held_by,
    left_of,
    processes_of,
    running,
    start_tree,
)
from tests.support.jobs import new_mark, processes_with, until_called
from tests.support.patience import patient
from tests.support.pki import TestPki


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """One of ``KINDS``, if it can be had."""
    if not can_be(request.param):
        pytest.skip(f"needs control groups (root, or delegation) for --containment {request.param}")
    return str(request.param)


@pytest.mark.parametrize(
    ("kind", "killed"),
    [*((kind, False) for kind in KINDS), ("auto", True), ("cgroup-v1", True), ("none", True)],
    indirect=["kind"],
    ids=lambda value: {True: "server killed meanwhile", False: ""}.get(value, value),
)
async def test_a_stop_leaves_nobody(pki: TestPki, tmp_path: Path, kind: str, killed: bool) -> None:
    """After the answer no process of the job exists, whatever its tree; the receipt names them, and the proof."""
    mark = new_mark()
    stopped: dict[str, Job] = {}
    async with running(pki, tmp_path, kind) as (jobd, client):
        jobs = {name: await start_tree(client, name, tmp_path, mark=mark) for name in TREES}
        await until_called(["sleep", "sleep"], lambda: processes_of(jobs["double fork"]))

        async def stop(name: str) -> None:
            stopped[name] = await client.stop(jobs[name].id, grace=GRACE.total_seconds())
            assert processes_of(jobs[name]) == []

        async with trio.open_nursery() as nursery:
            for name in TREES:
                nursery.start_soon(stop, name)
            if killed:
                await trio.to_thread.run_sync(jobd.kill_server)
        assert left_of(mark) == set()
        assert {job.state for job in stopped.values()} == {JobState.STOPPED}
        for name, job in stopped.items():
            receipt = job.stop_receipt
            assert receipt is not None, name
            assert receipt.empty, name
            assert receipt.found, name
            assert receipt.proof == PROOFS.get(kind, receipt.proof)
            assert receipt.found == len(receipt.processes) or receipt.found > 100
            assert {process.signal for process in receipt.processes} <= {signal.SIGTERM, signal.SIGKILL}
        assert (await client.query(jobs["deep"].id)).stop_receipt == stopped["deep"].stop_receipt
    if not killed:
        escaped = stopped["double fork"].stop_receipt
        assert escaped is not None
        assert {(p.command, p.left_session) for p in escaped.processes} == {("sleep", True), ("sleep", False)}
        deaf = stopped["ignores SIGTERM"].stop_receipt
        assert deaf is not None
        assert signal.SIGKILL in {p.signal for p in deaf.processes if p.pid == jobs["ignores SIGTERM"].pid}
        assert GRACE <= deaf.took < timedelta(seconds=SECONDS)
        deep = stopped["deep"].stop_receipt
        assert deep is not None
        parents = {p.pid: p.parent_pid for p in deep.processes}
        assert set(parents.values()) - parents.keys() == {parents[jobs["deep"].pid]} == {jobd.launcher}


@pytest.mark.parametrize("kind", ["auto", "cgroup-v1", "none"], indirect=True)
async def test_a_timeout_leaves_nobody(pki: TestPki, tmp_path: Path, kind: str) -> None:
    """A state and a reason of its own; a kill of the server meanwhile does not give it more time."""
    mark, seconds = new_mark(), max(3.0, patient(0.8))  # each is to be ready within them
    async with running(pki, tmp_path, kind, "--grace", "0.3") as (jobd, client):
        limits = Limits(timeout=timedelta(seconds=seconds))
        jobs = [await start_tree(client, name, tmp_path, limits, mark=mark) for name in TREES]
        await trio.to_thread.run_sync(jobd.kill_server)
        ended = await client.wait(*[job.id for job in jobs])
        assert left_of(mark) == set()
        assert [pid for job in jobs for pid in processes_of(job)] == []
    assert {(job.state, job.reason) for job in ended} == {(JobState.TIMED_OUT, "TIMED_OUT")}
    assert all(f"the {seconds:g} s that it may" in job.message for job in ended)
    assert all(job.stopped_by == "" for job in ended)


async def test_a_hog_is_told_apart_and_its_neighbour_finishes(pki: TestPki, tmp_path: Path) -> None:
    """Out of memory is a state of its own; so much was used at the most; and a SIGKILL of somebody else is none."""
    async with running(pki, tmp_path, "auto") as (_, client):
        kind, limits = await held_by(client)
        if "memory_bytes" not in limits:
            pytest.skip(f"needs a control group with the memory controller (root, or delegation); here: {kind}")
        neighbour = await client.start(["sh", "-c", "for i in 1 2 3 4 5; do sleep 0.1; done; echo well"])
        allowed = Limits(memory_bytes=50_000_000)
        hog = await client.start([sys.executable, "-c", "x = bytearray(200_000_000)"], limits=allowed)
        killed = await client.start(["sh", "-c", "kill -9 $$"], limits=allowed)
        await client.wait(hog.id, killed.id, neighbour.id)
        ends = [await client.query(job.id) for job in (hog, killed, neighbour)]
    assert [job.state for job in ends] == [JobState.OUT_OF_MEMORY, JobState.KILLED, JobState.SUCCEEDED]
    assert ends[0].reason == "OUT_OF_MEMORY"
    assert "50000000 bytes" in ends[0].message
    assert ends[0].usage is not None
    assert 20_000_000 < (ends[0].usage.memory_peak_bytes or 0) <= 50_100_000


async def test_a_fork_bomb_stays_within_its_limit(pki: TestPki, tmp_path: Path) -> None:
    """And is stopped; the daemon answers meanwhile."""
    async with running(pki, tmp_path, "auto") as (_, client):
        kind, limits = await held_by(client)
        if "processes" not in limits:
            pytest.skip(f"needs a control group with the pids controller (root, or delegation); here: {kind}")
        mark = new_mark()
        limited = Limits(processes=30, nice=19)
        bomb = await client.start([sys.executable, "-c", BOMB], limits=limited, env={"MARK": mark})
        while len(processes_with(mark)) < 30:
            await trio.sleep(0.01)
        for _ in range(5):
            seen = await client.query(bomb.id)
            assert seen.usage is not None
            assert 30 <= (seen.usage.processes or 0) <= 60  # the kernel counts those that it is about to refuse, too
            assert len(processes_with(mark)) == 30
        stopped = await client.stop(bomb.id, grace=0)
        assert stopped.stop_receipt is not None
        assert stopped.stop_receipt.empty
        assert processes_with(mark) == []


async def test_limits_of_each_process_hold_everywhere(pki: TestPki, tmp_path: Path) -> None:
    """Open files, core size, niceness and recorded output need no control group."""
    async with running(pki, tmp_path, "none") as (_, client):
        limits = Limits(open_files=77, core_bytes=4096, nice=5, output_bytes=4)
        job = await client.start(["sh", "-c", "ulimit -n; ulimit -c; nice"], limits=limits)
        [ended] = await client.wait(job.id)
        assert (ended.output_bytes, ended.dropped_bytes) == (4, len("77\n8\n5\n") - 4)
        limits.output_bytes = 0  # now all of it is recorded
        plain = await client.start(["sh", "-c", "ulimit -n; ulimit -c; nice"], limits=limits)
        async with client.stream(plain.id) as output:
            assert b"".join([chunk.data async for chunk in output]) == b"77\n8\n5\n"  # blocks of 512 bytes
        assert (await client.query(plain.id)).spec.limits == limits


async def test_a_limit_that_cannot_be_held_is_refused_by_name(pki: TestPki, tmp_path: Path) -> None:
    """And nothing is started."""
    async with running(pki, tmp_path, "none") as (_, client):
        with pytest.raises(InvalidArgumentError) as caught:
            await client.start(["true"], limits=Limits(memory_bytes=10**8, cpus=0.5, open_files=10))
        assert {each.field for each in caught.value.violations} == {"spec.limits.memory_bytes", "spec.limits.cpus"}
        assert [job async for job in client.list()] == []


@pytest.mark.parametrize("kind", ["auto", "none"])
async def test_what_holds_the_jobs_and_what_is_weaker_is_said(pki: TestPki, tmp_path: Path, kind: str) -> None:
    """At the start, and to whoever asks for the workers; in the same words."""
    async with running(pki, tmp_path, kind) as (jobd, client):
        [worker] = (await client.workers()).workers
    [held] = jobd.logged("jobs are held together")
    [isolated] = jobd.logged("jobs can be isolated")
    assert held["by"] == worker.containment
    assert (held["by"] == "none") is (kind == "none" or not can_be("cgroup"))
    assert [*held["weaknesses"], *isolated["weaknesses"]] == worker.weaknesses
    assert held["weaknesses"] or held["by"] != "none"


async def test_the_operator_s_limits_hold(pki: TestPki, tmp_path: Path) -> None:
    """Defaults for whoever does not say, ceilings for all, and others for one; as the answer shows."""
    file = tmp_path / "jobd.toml"
    file.write_text("[limits]\nopen-files = 50\n[limits.max]\ntimeout = 100\n[principals.rob.limits]\nnice = 1\n")
    async with running(pki, tmp_path, "none", "--config", str(file)) as (_, client):
        job = await client.start(["true"])
        assert job.spec.limits == Limits(open_files=50, timeout=timedelta(seconds=100))
        with pytest.raises(InvalidArgumentError, match="alice may ask for 100"):
            await client.start(["true"], limits=Limits(timeout=timedelta(seconds=101)))


async def test_a_limit_of_the_operator_s_that_cannot_be_held_stops_jobd(pki: TestPki, tmp_path: Path) -> None:
    """It says which; nothing is started."""
    file = tmp_path / "jobd.toml"
    file.write_text("[limits]\nmemory = '1G'\n")
    with pytest.raises(AssertionError, match="the limits of memory in the configuration cannot be held here"):
        async with running(pki, tmp_path, "none", "--config", str(file)):
            pass


IMPOSSIBLE = [
    (Limits(memory_bytes=-1), "memory_bytes"),
    (Limits(memory_bytes=1), "memory_bytes"),
    (Limits(memory_bytes=2**62 + 1), "memory_bytes"),
    (Limits(cpus=float("nan")), "cpus"),
    (Limits(cpus=float("inf")), "cpus"),
    (Limits(cpus=-1.0), "cpus"),
    (Limits(cpus=0.001), "cpus"),
    (Limits(cpu_weight=10_001), "cpu_weight"),
    (Limits(cpu_weight=-1), "cpu_weight"),
    (Limits(processes=-5), "processes"),
    (Limits(processes=2**22 + 1), "processes"),
    (Limits(timeout=timedelta(seconds=-2)), "timeout"),
    (Limits(timeout=timedelta(microseconds=1)), "timeout"),
    (Limits(timeout=timedelta(days=11 * 366)), "timeout"),
    (Limits(output_bytes=-1), "output_bytes"),
    (Limits(nice=20), "nice"),
    (Limits(nice=-1), "nice"),
    (Limits(open_files=2), "open_files"),
    (Limits(open_files=2**20 + 1), "open_files"),
    (Limits(core_bytes=-1), "core_bytes"),
]


GRACE = timedelta(seconds=0.5)
BEYOND_THE_MACHINE = Limits(
    memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + 1,
    cpus=(os.cpu_count() or 0) + 0.5,
)


async def test_a_limit_that_is_none_is_refused_by_name(pki: TestPki, tmp_path: Path) -> None:
    """Zero means "as the server is set"; all else has to be within bounds, and those of the machine. Nothing is
    started."""
    async with running(pki, tmp_path, "none") as (_, client):
        for limits, field in IMPOSSIBLE:
            with pytest.raises(InvalidArgumentError) as caught:
                await client.start(["true"], limits=limits)
            assert [each.field for each in caught.value.violations] == [f"spec.limits.{field}"], limits
        with pytest.raises(InvalidArgumentError) as caught:
            await client.start(["true"], limits=Limits(nice=20, timeout=timedelta(seconds=-2)))
        assert {each.field for each in caught.value.violations} == {"spec.limits.nice", "spec.limits.timeout"}
        with pytest.raises(InvalidArgumentError, match="the machine has") as caught:
            await client.start(["true"], limits=BEYOND_THE_MACHINE)
        assert {each.field for each in caught.value.violations} == {"spec.limits.memory_bytes", "spec.limits.cpus"}
        assert [job async for job in client.list()] == []
        [ended] = await client.wait((await client.start(["true"], limits=Limits())).id)
        assert ended.state == JobState.SUCCEEDED


@pytest.mark.parametrize("kind", ["auto", "none"], indirect=True)
async def test_the_first_signal_can_be_another_and_for_the_main_process_alone(
    pki: TestPki, tmp_path: Path, kind: str
) -> None:
    """The child hears nothing of it; when the main process has ended, what is left is ended too."""
    child = "trap 'echo child heard' HUP; echo ready; while :; do sleep 0.05; done"
    mark = new_mark()
    script = f"trap 'echo main heard; exit 3' HUP; sh -c \"{child}\" & while :; do sleep 0.05; done"
    async with running(pki, tmp_path, kind, "--drain", "0.2") as (_, client):
        job = await client.start(["sh", "-c", script], env={"MARK": mark})
        async with client.stream(job.id) as output:
            assert (await anext(output)).data == b"ready\n"
            stopped = await client.stop(job.id, grace=patient(20), signum=signal.SIGHUP, main_only=True)
            text = b"".join([chunk.data async for chunk in output])
        assert (stopped.state, stopped.exit_code) == (JobState.STOPPED, 3)
        assert b"main heard" in text
        assert b"child heard" not in text
        assert processes_with(mark) == []
        assert stopped.stop_receipt is not None
        sent = {each.pid: each.signal for each in stopped.stop_receipt.processes}
        assert sent.pop(job.pid) == signal.SIGHUP
        assert signal.SIGHUP not in sent.values()


async def test_many_starts_and_stops_leave_nothing(pki: TestPki, tmp_path: Path) -> None:
    """No control group, process, descriptor or file. (The session ``soak`` is a thousand of them, in each kind.)"""
    async with running(pki, tmp_path, "auto") as (jobd, client):
        await see_that_nothing_is_left(jobd, client, 60, "many-stops")
