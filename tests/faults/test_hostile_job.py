"""What a hostile job tries, and what comes of it: a test for each line of the table in docs/security.md.

Each in a jobd as the machine has it, and mostly without control groups too. Jobs run as the daemon's own user here.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import trio

from api.client import JobClient
from api.errors import RpcError
from api.messages import Job, JobState, Limits, OutputSource
from tests.faults.trees import (
    BOMB,
    WITH_A_CHILD,
    can_freeze,
    held_by,
    ice,
    left_of,
    processes_of,
    running,
    start_script,
    start_tree,
)
from tests.support.daemon import ROOT, state_of
from tests.support.disk import needs_root, small_disk
from tests.support.jobs import new_mark, processes_with
from tests.support.patience import patient
from tests.support.pki import TestPki

KINDS = ["auto", "none"]


async def finishes(client: JobClient) -> None:
    """A well-behaved job runs to its end, and its output is whole."""
    job = await client.start(["sh", "-c", "for i in 1 2 3 4 5; do sleep 0.05; echo $i; done"])
    async with client.stream(job.id) as output:
        text = b"".join([chunk.data async for chunk in output])
    assert (text, output.verdict.state if output.verdict else None) == (b"1\n2\n3\n4\n5\n", JobState.SUCCEEDED)


async def slowest_answer(client: JobClient, job: Job, count: int = 20) -> float:
    """How long the slowest of some queries took."""
    times = []
    for _ in range(count):
        begun = time.monotonic()
        await client.query(job.id)
        times.append(time.monotonic() - begun)
    return max(times)


async def ends(client: JobClient, job: Job) -> Job:
    """Stop a job at once: nobody of it is left, and the receipt says so."""
    stopped = await client.stop(job.id, grace=0)
    assert processes_of(job) == []
    assert stopped.stop_receipt is not None
    assert stopped.stop_receipt.empty
    return stopped


async def test_a_fork_bomb_and_a_memory_hog_beside_a_neighbour(pki: TestPki, tmp_path: Path) -> None:
    """The neighbour finishes, the daemon answers, and both are ended: as far as the limits can be held here."""
    async with running(pki, tmp_path, "auto") as (_, client):
        kind, limits = await held_by(client)
        if not {"processes", "memory_bytes"} <= limits:
            pytest.skip(f"needs control groups with pids and memory (root, or delegation); here: {kind}")
        bomb = await client.start([sys.executable, "-c", BOMB], limits=Limits(processes=40, cpu_weight=1))
        hoard = "x = []\nwhile True: x.append(bytearray(1 << 20))"
        hog = await client.start([sys.executable, "-c", hoard], limits=Limits(memory_bytes=40_000_000))
        await finishes(client)
        assert await slowest_answer(client, bomb) < patient(5)  # some milliseconds where nothing else is done
        [ended] = await client.wait(hog.id)
        assert ended.state == JobState.OUT_OF_MEMORY
        await ends(client, bomb)


async def test_limits_that_cannot_be_held_do_not_let_a_bomb_start(pki: TestPki, tmp_path: Path) -> None:
    """Without control groups, what would hold it is refused by name, and nothing is started."""
    async with running(pki, tmp_path, "none") as (_, client):
        mark = new_mark()
        for limits in (Limits(processes=40), Limits(memory_bytes=2**20), Limits(cpus=1.0)):
            with pytest.raises(RpcError, match="cannot be held"):
                await client.start([sys.executable, "-c", BOMB], limits=limits, env={"MARK": mark})
        assert [job async for job in client.list()] == []
        assert processes_with(mark) == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_flood_of_output_is_nobody_else_s_concern(pki: TestPki, tmp_path: Path, kind: str) -> None:
    """Recorded up to its limit, dropped and counted beyond; the neighbour finishes, the daemon answers."""
    async with running(pki, tmp_path, kind) as (_, client):
        flood = await client.start(["sh", "-c", "yes & yes >&2"], limits=Limits(output_bytes=100_000))
        while not (await client.query(flood.id)).dropped_bytes:
            await trio.sleep(0.01)
        await finishes(client)
        assert await slowest_answer(client, flood) < patient(5)
        assert (await ends(client, flood)).output_bytes == 100_000


@needs_root
@pytest.mark.root
async def test_a_job_that_fills_the_disk_costs_records_and_no_job(pki: TestPki, tmp_path: Path) -> None:
    """By its files, which nobody limits: output that cannot be recorded is counted, and with room again all goes on.
    (tests/faults/test_disk.py has what a full disk is to all else.)"""
    script = f"head -c 20M /dev/zero > {tmp_path}/disk/file; yes | head -c 100000; exec sleep 1000"
    with small_disk(tmp_path / "disk", "8m") as disk:
        async with running(pki, disk, "auto") as (_, client):
            neighbour = await client.start(["sleep", "1000"])
            filler = await client.start(["sh", "-c", script])
            while not (seen := await client.query(filler.id)).dropped_bytes:
                await trio.sleep(0.01)
            assert seen.state == JobState.RUNNING
            assert (await client.query(neighbour.id)).state == JobState.RUNNING
            (disk / "file").unlink()
            await finishes(client)
            for job in (filler, neighbour):
                assert (await ends(client, job)).state == JobState.STOPPED


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tree", ["left all behind", "stopped", "closed its descriptors", "ignores SIGTERM"])
async def test_nobody_outlives_a_stop(pki: TestPki, tmp_path: Path, kind: str, tree: str) -> None:
    """Leave the session, the parent, the group; stop oneself; close everything; be deaf."""
    async with running(pki, tmp_path, kind) as (_, client):
        mark = new_mark()
        job = await start_tree(client, tree, tmp_path, mark=mark)
        stopped = await client.stop(job.id, grace=0.2)
        assert {*left_of(mark), *processes_of(job)} == set()
        assert stopped.stop_receipt is not None
        assert stopped.stop_receipt.empty


@pytest.mark.parametrize("kind", KINDS)
async def test_a_process_in_uninterruptible_sleep_that_a_kill_reaches(pki: TestPki, tmp_path: Path, kind: str) -> None:
    """State D, as ps shows it: the parent of a vfork(2). SIGKILL ends it, and its child."""
    async with running(pki, tmp_path, kind) as (_, client):
        job = await start_tree(client, "waits for a vfork", tmp_path)
        while state_of(job.pid) != "D":
            await trio.sleep(0.01)
        await ends(client, job)


@pytest.mark.root
@pytest.mark.skipif(not can_freeze(), reason="needs root and the freezer of cgroup v1")
@pytest.mark.parametrize("which", ["the main process", "a child"])
async def test_a_process_that_no_kill_reaches_is_said_to_be_there(pki: TestPki, tmp_path: Path, which: str) -> None:
    """State D for real. Each stop fails and says so, and the job has not ended, though its main process may have. When
    the process goes, the job ends as stopped. (In all kinds of containment, for all ends: the session ``matrix``.)"""
    async with running(pki, tmp_path, "cgroup-v2") as (_, client), ice() as frozen:
        job = await start_script(client, WITH_A_CHILD, tmp_path)
        [child] = set(processes_of(job)) - {job.pid}
        stuck = job.pid if which == "the main process" else child
        await frozen.freeze(stuck)
        for _ in range(2):
            with pytest.raises(RpcError, match="did not exit after SIGKILL"):
                await client.stop(job.id, grace=0)
        there = await client.query(job.id)
        assert (there.state, there.stopping) == (JobState.RUNNING, True)
        assert there.stop_receipt is not None
        assert (stuck, False) in {(each.pid, there.stop_receipt.empty) for each in there.stop_receipt.processes}
        frozen.thaw()
        [ended] = await client.wait(job.id)
        assert (ended.state, ended.signal) == (JobState.STOPPED, signal.SIGKILL)
        receipt = (await client.query(job.id)).stop_receipt
        assert receipt is not None
        assert receipt.empty
        assert {(each.pid, each.signal) for each in receipt.processes} == {
            (job.pid, signal.SIGKILL),
            (child, signal.SIGKILL),
        }


@pytest.mark.root
@pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/fuse").exists() or "JOBD_TESTS_ALONE" not in os.environ,
    reason="needs root, /dev/fuse, and to be alone (nox -s matrix): other tests that look at all processes would wait",
)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_process_that_does_not_let_itself_be_read_keeps_no_stop_waiting(
    pki: TestPki, tmp_path: Path, kind: str
) -> None:
    """Whoever reads its environment waits for ever (tests/faults/unreadable.py). Another job is stopped, another one's
    time is over, and it is stopped itself."""
    async with running(pki, tmp_path, kind, "--drain", "0.2") as (_, client):
        (tmp_path / "mounted").mkdir()
        command = ["unshare", "--mount", sys.executable, "-m", "tests.faults.unreadable", str(tmp_path / "mounted")]
        job = await client.start(command, cwd=str(ROOT))
        async with client.stream(job.id) as output:
            assert (await anext(output)).data == b"ready\n"
        timed = await client.start(["sleep", "1000"], limits=Limits(timeout=timedelta(seconds=0.1)))
        for each in (await client.start(["sleep", "1000"]), job):
            stopped = await client.stop(each.id, grace=0)
            assert stopped.stop_receipt is not None
            assert stopped.stop_receipt.empty
        [timed] = await client.wait(timed.id)
        assert timed.state == JobState.TIMED_OUT


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only then may a job leave its control group")
async def test_a_job_of_root_s_leaves_its_control_group_and_not_its_job(pki: TestPki, tmp_path: Path) -> None:
    """It gets rid of its limits, and of nothing else: a stop finds it by what it cannot change."""
    async with running(pki, tmp_path, "auto") as (_, client):
        job = await start_tree(client, "left its group", tmp_path)
        groups = Path(f"/proc/{job.pid}/cgroup").read_text()
        assert f"/{job.id}" not in groups
        stopped = await ends(client, job)
        assert stopped.stop_receipt is not None
        assert len(stopped.stop_receipt.processes) == 2


LEAVE = """
tried=$(find /sys/fs/cgroup -name cgroup.procs)
test -n "$tried" || echo there are no groups
for group in $tried; do
    case $group in */$JOBD_JOB_ID/*) continue ;; esac
    echo 0 > $group && echo moved to $group
done
echo tried
"""
"""Into any group but one's own: the machine's, jobd's, another job's."""


async def test_a_job_of_another_user_s_does_not_leave_its_control_group(pki: TestPki, tmp_path: Path) -> None:
    """The kernel refuses. One of the daemon's own user does not either, unless that is who the groups were delegated
    to; then a stop finds it all the same."""
    asked = ("--job-user", "nobody") if os.geteuid() == 0 else ()
    async with running(pki, tmp_path, "auto", *asked) as (_, client):
        kind, _ = await held_by(client)
        other = await client.start(["sleep", "1000"])
        job = await client.start(["sh", "-c", f"{LEAVE} exec sleep 1000"], cwd="/")
        text = b""
        async with client.stream(job.id, source=OutputSource(OutputSource.STDOUT)) as output:
            while b"tried" not in text:
                text += (await anext(output)).data
        delegated = os.geteuid() != 0 and kind != "none"
        assert (b"moved to" in text) is delegated
        for each in (job, other):
            await ends(client, each)


async def test_a_job_gets_nothing_of_the_daemon_s(pki: TestPki, tmp_path: Path) -> None:
    """No descriptor but its three, and nothing of its environment."""
    async with running(pki, tmp_path, "auto") as (_, client):
        job = await client.start(["sh", "-c", "ls -1 /proc/self/fd; env | cut -d= -f1"])
        async with client.stream(job.id) as output:
            words = b"".join([chunk.data async for chunk in output]).decode().split()
    known = {"PATH", "HOME", "USER", "LOGNAME", "LANG", "JOBD_JOB_ID", "PWD", "SHLVL", "_", "OLDPWD"}
    assert {word for word in words if not word.isdigit()} <= known
    assert {word for word in words if word.isdigit()} <= {"0", "1", "2", "3"}  # 3: the directory that ls reads


async def test_a_job_that_is_the_daemon_s_own_user_can_kill_the_server_and_not_its_record(
    pki: TestPki, tmp_path: Path
) -> None:
    """As the same user it can; the launcher starts another one, and the job is stopped like any other."""
    async with running(pki, tmp_path, "auto") as (jobd, client):
        server = await trio.to_thread.run_sync(jobd.server_pid)
        job = await client.start(["sh", "-c", f"kill -9 {server}; echo killed; exec sleep 1000"])
        async with client.stream(job.id) as output:
            assert (await anext(output)).data == b"killed\n"
        assert await trio.to_thread.run_sync(jobd.server_pid) != server
        await finishes(client)
        assert (await ends(client, job)).state == JobState.STOPPED


async def test_a_job_that_is_the_daemon_s_own_user_reads_its_key_and_its_state(pki: TestPki, tmp_path: Path) -> None:
    """Which is why docs/security.md says to run jobs as somebody else: files are the kernel's to guard, by user."""
    async with running(pki, tmp_path, "auto") as (jobd, client):
        key = pki.server()["key"]
        job = await client.start(["sh", "-c", f"head -c 10 {key}; touch {jobd.state}/hostile && echo; echo written"])
        async with client.stream(job.id) as output:
            text = b"".join([chunk.data async for chunk in output])
        assert text == b"-----BEGIN\nwritten\n"
        await finishes(client)
        assert jobd.state.stat().st_mode & 0o777 == 0o700
        assert key.stat().st_mode & 0o777 == 0o600
