"""jobd as a service, as docs/systemd/jobd.service has it: limits, ends, restarts, upgrades."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from api.client import JobClient
from api.messages import Isolation, Job, JobState, Limits
from tests.faults.trees import processes_of
from tests.machine import service as systemd
from tests.support.daemon import children_of, command_of, holder_of, is_alive
from tests.support.pki import TestPki

BOMB = "import os, time\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        time.sleep(0.01)\n"
WHOLE = Isolation(private_tmp=True, read_only_root=True, no_network=True, pid_namespace=True, drop_capabilities=True)
SERVERS = {
    "root": ("", "root"),
    "server without privileges": ('user = "jobd"\njob-user = "jobs"\n', "root"),
    "ordinary user": ("", "jobd"),
}
"""How it can run: more settings, and who starts it."""


@pytest.fixture(scope="module", params=SERVERS)
def service(request: pytest.FixtureRequest, pki: TestPki) -> Iterator[None]:
    """The service, in each way: one for all tests, since a start takes long here."""
    with systemd.service(pki, *SERVERS[request.param]):
        yield


@pytest.fixture
def jobd(service: None) -> None:
    """The service runs, whatever the test before has left of it."""
    if systemd.shown("ActiveState") != "active":
        systemd.systemctl("reset-failed", systemd.NAME, check=False)
        systemd.systemctl("start", systemd.NAME)
    systemd.until(systemd.serves, "it does not serve")


@asynccontextmanager
async def client_of(pki: TestPki) -> AsyncIterator[JobClient]:
    server = systemd.ADDRESS.replace("127.0.0.1", "localhost")
    with trio.fail_after(2 * systemd.SECONDS):
        async with JobClient.connect(server, **pki.credentials("alice"), retry_for=systemd.SECONDS) as client:
            yield client


async def has_ended(client: JobClient, job: Job) -> Job:
    """A job that ends by itself."""
    await client.wait(job.id)
    return await client.query(job.id)


def servers_of(launcher: int) -> list[int]:
    """The pids of its servers."""
    return [pid for pid in children_of(launcher) if b"jobd.server" in command_of(pid)]


async def test_limits_hold(pki: TestPki, jobd: None) -> None:
    """Memory, processors and processes, as files of the job's control group and as what comes of them."""
    async with client_of(pki) as client:
        [worker] = (await client.workers()).workers
        assert worker.containment == "cgroup v2"
        assert not [each for each in worker.weaknesses if "limits" in each]
        assert {"memory_bytes", "cpus", "cpu_weight", "processes"} <= set(worker.limits)
        limits = Limits(memory_bytes=50 * 2**20, cpus=0.5, cpu_weight=7, processes=9)
        job = await client.start(["sleep", "1000"], limits=limits)
        assert systemd.controller_file(job, "memory.max") == f"{50 * 2**20}"
        assert systemd.controller_file(job, "memory.swap.max") == "0"
        assert systemd.controller_file(job, "memory.oom.group") == "1"
        assert systemd.controller_file(job, "cpu.max") == "50000 100000"
        assert systemd.controller_file(job, "cpu.weight") == "7"
        assert systemd.controller_file(job, "pids.max") == "9"
        assert str(job.pid) in systemd.controller_file(job, "cgroup.procs").split()
        stopped = await client.stop(job.id)
        assert stopped.stop_receipt is not None
        assert (stopped.stop_receipt.empty, stopped.stop_receipt.proof) == (True, "cgroup.events")


async def test_out_of_memory_ends_all_of_a_job_and_nobody_else(pki: TestPki, jobd: None) -> None:
    """The kernel kills the whole group at once, though it is a child that asks for too much; the parent would go on."""
    hoard = "x = []\nwhile True: x.append(bytearray(1 << 20))"
    script = f'sleep 1000 & "{sys.executable}" -c "{hoard}"; echo went on; sleep 1000'
    async with client_of(pki) as client:
        neighbour = await client.start(["sleep", "1000"])
        job = await has_ended(client, await client.start(["sh", "-c", script], limits=Limits(memory_bytes=40 * 2**20)))
        assert (job.state, job.reason, job.signal) == (JobState.OUT_OF_MEMORY, "OUT_OF_MEMORY", signal.SIGKILL)
        assert job.output_bytes == 0
        assert processes_of(job) == []
        assert job.usage is not None
        assert 30 * 2**20 < (job.usage.memory_peak_bytes or 0) <= 41 * 2**20
        assert (await client.query(neighbour.id)).state == JobState.RUNNING
        await client.stop(neighbour.id)


async def test_a_fork_bomb_stays_within_its_limit_and_is_stopped(pki: TestPki, jobd: None) -> None:
    """The receipt says that nobody is left, and by what that is known."""
    async with client_of(pki) as client:
        job = await client.start([sys.executable, "-c", BOMB], limits=Limits(processes=30, cpu_weight=1))
        while len(systemd.controller_file(job, "cgroup.procs").split()) < 30:
            await trio.sleep(0.05)
        for _ in range(5):
            assert len(systemd.controller_file(job, "cgroup.procs").split()) == 30
        seen = await client.query(job.id)
        assert seen.usage is not None
        assert (seen.usage.processes or 0) >= 30  # a fork that is about to be refused is counted for a moment
        stopped = await client.stop(job.id, grace=0)
        assert processes_of(job) == []
        assert stopped.stop_receipt is not None
        assert (stopped.stop_receipt.empty, stopped.stop_receipt.proof) == (True, "cgroup.events")
        assert stopped.stop_receipt.found >= 30


async def test_use_is_counted(pki: TestPki, jobd: None) -> None:
    """Processor time, memory at its peak, and bytes that went to the disk, of all processes that there were."""
    script = (
        f'"{sys.executable}" -c "x = bytearray(30 << 20); t = __import__(\'time\'); '
        'end = t.process_time() + 0.3\nwhile t.process_time() < end: pass"; '
        "dd if=/dev/zero of=/var/tmp/written-$$ bs=1M count=4 conv=fsync 2> /dev/null; rm /var/tmp/written-$$"
    )
    async with client_of(pki) as client:
        job = await has_ended(client, await client.start(["sh", "-c", script]))
        assert job.state == JobState.SUCCEEDED
        assert job.usage is not None
        assert job.usage.cpu_time is not None
        assert job.usage.cpu_time.total_seconds() >= 0.3
        assert (job.usage.memory_peak_bytes or 0) >= 30 * 2**20
        assert (job.usage.written_bytes or 0) >= 4 * 2**20


async def test_a_share_of_a_processor_holds(pki: TestPki, jobd: None) -> None:
    """A job that would use all of a processor gets a fifth of it."""
    burn = "import time\nend = time.monotonic() + 5\nwhile time.monotonic() < end: pass"
    async with client_of(pki) as client:
        job = await has_ended(client, await client.start([sys.executable, "-c", burn], limits=Limits(cpus=0.2)))
        assert job.usage is not None
        assert job.usage.cpu_time is not None
        assert job.usage.wall_time is not None
        assert 0.05 < job.usage.cpu_time / job.usage.wall_time < 0.3


async def test_jobs_live_on_when_the_service_is_stopped_and_started(pki: TestPki, jobd: None) -> None:
    """``systemctl stop`` leaves launcher and jobs; ``systemctl start`` takes them up, with limits, and starts more."""
    async with client_of(pki) as client:
        job = await client.start(["sh", "-c", "echo before; sleep 1000"], limits=Limits(processes=9))
    launcher = holder_of(systemd.STATE)
    systemd.systemctl("stop", systemd.NAME)
    assert systemd.shown("Result") == "success"
    assert is_alive(job.pid)
    systemd.systemctl("start", systemd.NAME)
    assert holder_of(systemd.STATE) == launcher
    async with client_of(pki) as client:
        still = await client.query(job.id)
        assert (still.state, still.pid) == (JobState.RUNNING, job.pid)
        assert systemd.controller_file(job, "pids.max") == "9"
        other = await client.start(["sleep", "1000"], limits=Limits(processes=8))
        assert systemd.controller_file(other, "pids.max") == "8"
        for each in (job, other):
            assert (await client.stop(each.id)).state == JobState.STOPPED


async def test_jobs_live_on_over_a_restart(pki: TestPki, jobd: None) -> None:
    """``systemctl restart``: the same process, and its output from before."""
    async with client_of(pki) as client:
        job = await client.start(["sh", "-c", "echo before; sleep 1000"])
    systemd.systemctl("restart", systemd.NAME)
    async with client_of(pki) as client:
        assert (await client.query(job.id)).pid == job.pid
        async with client.stream(job.id) as output:
            assert (await anext(output)).data == b"before\n"
        assert (await client.stop(job.id)).state == JobState.STOPPED


async def test_systemd_starts_what_was_killed(pki: TestPki, jobd: None) -> None:
    """The front, which is the service's main process: ``Restart=on-failure``, and the jobs go on."""
    async with client_of(pki) as client:
        job = await client.start(["sleep", "1000"])
    front, launcher = int(systemd.shown("MainPID")), holder_of(systemd.STATE)
    os.kill(front, signal.SIGKILL)
    systemd.until(lambda: systemd.shown("MainPID") not in ("0", str(front)), "it is not started again")
    systemd.until(lambda: systemd.shown("ActiveState") == "active", "it is not active")
    assert holder_of(systemd.STATE) == launcher
    async with client_of(pki) as client:
        assert (await client.stop(job.id)).state == JobState.STOPPED


async def test_a_reload_is_an_upgrade(pki: TestPki, jobd: None) -> None:
    """``systemctl reload`` waits for the new server; launcher, main process and jobs keep their numbers."""
    async with client_of(pki) as client:
        job = await client.start(["sleep", "1000"])
        before = systemd.shown("MainPID"), holder_of(systemd.STATE)
        upgrades = systemd.journal().count("executed anew")
        systemd.systemctl("reload", systemd.NAME)
        assert (systemd.shown("MainPID"), holder_of(systemd.STATE)) == before
        assert systemd.journal().count("executed anew") == upgrades + 1
        assert (await client.query(job.id)).pid == job.pid
        assert (await client.stop(job.id)).state == JobState.STOPPED


async def test_the_server_is_killed(pki: TestPki, jobd: None) -> None:
    """The launcher starts another; systemd need not know."""
    async with client_of(pki) as client:
        job = await client.start(["sleep", "1000"], limits=Limits(processes=9))
        before = systemd.shown("MainPID")
        [server] = servers_of(holder_of(systemd.STATE))
        os.kill(server, signal.SIGKILL)
        other = await client.start(["sleep", "1000"], limits=Limits(memory_bytes=30 * 2**20))
        assert systemd.controller_file(other, "memory.max") == f"{30 * 2**20}"
        for each in (job, other):
            assert (await client.stop(each.id)).state == JobState.STOPPED
        assert systemd.shown("MainPID") == before


@pytest.fixture
def watched() -> None:
    """systemd watches the server. (Where a test of trio's skips itself, the reason is lost.)"""
    if systemd.version() < systemd.SUBGROUPS:
        pytest.skip(systemd.UNWATCHED)


@pytest.mark.parametrize("service", ["root"], indirect=True)
async def test_a_server_that_hangs_is_replaced(watched: None, pki: TestPki, jobd: None) -> None:
    """The watchdog: whoever gives no answer is started again, and the jobs go on. (As long as the unit says.)"""
    async with client_of(pki) as client:
        job = await client.start(["sh", "-c", "echo before; sleep 1000"], limits=Limits(processes=9))
    launcher, restarts = holder_of(systemd.STATE), systemd.shown("NRestarts")
    [server] = servers_of(launcher)
    os.kill(server, signal.SIGSTOP)
    # Two minutes without an answer; then, half a minute for the one that hangs to leave, beside two starts of a server.
    systemd.until(lambda: systemd.shown("NRestarts") != restarts, "it is not started again", 3 * systemd.SECONDS)
    systemd.until(lambda: systemd.shown("ActiveState") == "active", "it is not active", 3 * systemd.SECONDS)
    assert not is_alive(server)
    assert holder_of(systemd.STATE) == launcher
    async with client_of(pki) as client:
        assert (await client.query(job.id)).pid == job.pid
        assert systemd.controller_file(job, "pids.max") == "9"
        assert (await client.stop(job.id)).state == JobState.STOPPED


async def test_nothing_is_left_of_jobs_that_ended(pki: TestPki, jobd: None) -> None:
    """No control group; and none of the service's when it ends without jobs."""
    async with client_of(pki) as client:
        assert [job async for job in client.list(states=[JobState.RUNNING])] == []
        jobs = [await client.start(["true"], limits=Limits(processes=9)) for _ in range(5)]
        for job in jobs:
            await client.wait(job.id)
        unit = systemd.group_of(holder_of(systemd.STATE)).parent
        systemd.until(lambda: not [path for job in jobs for path in unit.rglob(job.id)], "groups of jobs are left")
    systemd.systemctl("stop", systemd.NAME)
    systemd.until(lambda: not unit.exists(), "its control group is left")


async def test_jobcli_says_what_holds_the_jobs(pki: TestPki, jobd: None) -> None:
    """Version 2, and nothing that it cannot limit."""
    command = [systemd.installed("jobcli"), "--retry-for", f"{systemd.SECONDS:g}"]
    command += ["--server", systemd.ADDRESS.replace("127.0.0.1", "localhost")]
    command += [text for name, path in pki.credentials("alice").items() for text in (f"--{name}", str(path))]
    said = await trio.run_process([*command, "workers"], capture_stdout=True)
    print(said.stdout.decode())
    assert b"cgroup v2" in said.stdout
    assert b"cannot be held" not in said.stdout


@pytest.mark.parametrize("service", ["server without privileges", "ordinary user"], indirect=True)
async def test_jobs_can_be_sandboxed(pki: TestPki, jobd: None) -> None:
    """What the unit keeps from the service does not keep bubblewrap from its work, where an ordinary user runs it."""
    async with client_of(pki) as client:
        job = await client.start(["true"], isolation=WHOLE)
        ended = await has_ended(client, job)
        assert (ended.state, ended.message) == (JobState.SUCCEEDED, "exited with code 0")


def test_the_unit_is_without_faults() -> None:
    """As systemd sees it; and how much of the machine it leaves to the service (for people to judge)."""
    done = subprocess.run(["systemd-analyze", "verify", systemd.UNIT], capture_output=True, text=True, check=False)
    unknown = "'DelegateSubgroup'" if systemd.version() < systemd.SUBGROUPS else "nothing"
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if unknown not in line] == []


def test_what_the_unit_leaves_to_the_service(pki: TestPki, jobd: None) -> None:
    """Systemd's own figure, for people to judge; and not one of the worst."""
    command = ["systemd-analyze", "security", "--no-pager", systemd.NAME]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    print(done.stdout)
    figure = done.stdout.splitlines()[-1]
    with Path("/dev/ttyS1").open("w") as serial:
        print(f"\nmachine: {figure}", file=serial)
    assert float(figure.split(":")[1].split()[0]) < 6.5
