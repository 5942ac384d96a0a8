"""A job that is kept from the machine starts, ends and is stopped as any other."""

from __future__ import annotations

import os
import resource
import signal
import sys
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio

from api.messages import Isolation, JobState, Limits, OutputSource
from tests.faults.isolated import MEANS, WHOLE, needs_sandbox, outcome, running
from tests.support.daemon import ROOT as CODE
from tests.support.jobs import new_mark, processes_with
from tests.support.patience import patient
from tests.support.pki import TestPki

# ---- how it starts and ends


@needs_sandbox
async def test_what_cannot_be_started_inside_is_told_as_outside(pki: TestPki, tmp_path: Path) -> None:
    """The state, the reason, and no output; a directory that the sandbox hides is not there."""
    async with running(pki, tmp_path) as (_, client):
        with TemporaryDirectory(dir="/tmp") as hidden:
            for command, cwd, reason in (
                ("no-such-command", "", "COMMAND_NOT_FOUND"),
                ("/no/such/command", "", "COMMAND_NOT_FOUND"),
                ("/etc/passwd", "", "NOT_EXECUTABLE"),
                ("true", "/no/such/directory", "CWD_UNUSABLE"),
                ("true", hidden, "CWD_UNUSABLE"),
            ):
                job = await client.start([command], cwd=cwd, isolation=WHOLE)
                assert (job.state, job.reason, job.output_bytes) == (JobState.START_FAILED, reason, 0)


@needs_sandbox
async def test_a_sandbox_that_cannot_be_made_is_a_failed_start(pki: TestPki, tmp_path: Path) -> None:
    """With what bubblewrap says of it; nothing is left. (There may be no second process, which it needs; or too little
    memory for it, which is told apart.)"""
    async with running(pki, tmp_path) as (_, client):
        [worker] = (await client.workers()).workers
        if "processes" not in worker.limits:
            pytest.skip(
                f"needs a control group with the pids controller (root, or delegation); here: {worker.containment}"
            )
        mark = new_mark()
        job = await client.start(["true"], isolation=WHOLE, limits=Limits(processes=1), env={"MARK": mark})
        assert (job.state, job.reason) == (JobState.START_FAILED, "ISOLATION_FAILED")
        assert "bubblewrap says" in job.message
        if "memory" in worker.limits:
            small = await client.start(["true"], isolation=WHOLE, limits=Limits(memory_bytes=65536), env={"MARK": mark})
            assert (small.state, small.reason) == (JobState.START_FAILED, "OUT_OF_MEMORY")
            assert "sandbox cannot be made in the 65536 bytes" in small.message
        assert processes_with(mark) == []


@needs_sandbox
@pytest.mark.parametrize("isolation", [Isolation(no_network=True), WHOLE], ids=["one flag", "all flags"])
async def test_the_end_is_told_as_it_was(pki: TestPki, tmp_path: Path, isolation: Isolation) -> None:
    """Not as bubblewrap tells it, unless the kernel is too old to be asked; then as that does, and that is said."""
    exact = not any("128+N" in weakness for weakness in MEANS.weaknesses)
    async with running(pki, tmp_path) as (_, client):
        for script, code, signum in (
            ("exit 0", 0, None),
            ("exit 7", 7, None),
            ("exit 143", 143, None),
            ("kill -TERM $$", None if exact else 143, signal.SIGTERM if exact else None),
            ("kill -KILL $$", None if exact else 137, signal.SIGKILL if exact else None),
        ):
            _, verdict = await outcome(client, await client.start(["sh", "-c", script], isolation=isolation))
            assert (verdict.exit_code, verdict.signal) == (code, signum), script


HANDLER = "trap 'echo heard; sleep 0.3; echo done; exit 5' TERM; echo ready; while :; do sleep 0.05; done"


@needs_sandbox
@pytest.mark.parametrize("kind", ["auto", "none"])
@pytest.mark.parametrize("main", [False, True], ids=["all", "main"])
@pytest.mark.parametrize("isolation", [Isolation(no_network=True), WHOLE], ids=["one flag", "all flags"])
async def test_a_stop_gives_the_job_its_grace(
    pki: TestPki, tmp_path: Path, kind: str, main: bool, isolation: Isolation
) -> None:
    """The signal reaches the job, and not only what is around it, which stays until it has ended; its code survives."""
    async with running(pki, tmp_path, kind=kind) as (_, client):
        job = await client.start(["sh", "-c", HANDLER], isolation=isolation)
        async with client.stream(job.id, source=OutputSource(OutputSource.STDOUT)) as output:
            assert (await anext(output)).data == b"ready\n"
            stopped = await client.stop(job.id, grace=patient(20), main_only=main)
            text = b"".join([chunk.data async for chunk in output])
        assert text == b"heard\ndone\n"
        assert (stopped.state, stopped.exit_code) == (JobState.STOPPED, 5)
        receipt = stopped.stop_receipt
        assert receipt is not None
        assert receipt.empty
        assert {"sh", "bwrap"} <= {each.command for each in receipt.processes}
        sent = {(each.command, each.signal) for each in receipt.processes}
        assert ("sh", signal.SIGTERM) in sent
        assert (("bwrap", None) if main else ("bwrap", signal.SIGTERM)) in sent
        assert {signum for _, signum in sent} <= {signal.SIGTERM, signal.SIGKILL, None}
        assert processes_with(f"JOBD_JOB_ID={job.id}") == []


@needs_sandbox
@pytest.mark.parametrize("isolation", [Isolation(no_network=True), WHOLE], ids=["one flag", "all flags"])
@pytest.mark.parametrize("kind", ["auto", "none"])
async def test_nobody_outlives_a_sandboxed_job(pki: TestPki, tmp_path: Path, kind: str, isolation: Isolation) -> None:
    """A stop, a timeout, and the end of the main process with others left behind: after each nothing is there."""
    deaf = "trap '' TERM; (setsid sh -c \"trap '' TERM; while :; do sleep 0.1; done\" &); echo ready; {}"
    mark = {"MARK": new_mark()}
    async with running(pki, tmp_path, "--grace", "0.5", "--drain", "0.2", kind=kind) as (_, client):
        endless = deaf.format("while :; do sleep 0.1; done")
        ended = []
        for script, limits in (
            (endless, None),
            (endless, Limits(timeout=timedelta(seconds=patient(1)))),
            (deaf.format("exit 4"), None),
        ):
            job = await client.start(["sh", "-c", script], isolation=isolation, env=mark, limits=limits)
            async with client.stream(job.id) as output:
                assert (await anext(output)).data == b"ready\n"
            if not ended:
                await client.stop(job.id)
            await client.wait(job.id)
            ended.append(await client.query(job.id))
            assert processes_with(mark["MARK"]) == []
            assert processes_with(f"JOBD_JOB_ID={job.id}") == []
        assert [job.state for job in ended] == [JobState.STOPPED, JobState.TIMED_OUT, JobState.FAILED]
        assert ended[2].exit_code == 4
        assert all(job.stop_receipt is not None and job.stop_receipt.empty for job in ended)


@needs_sandbox
async def test_a_sandboxed_job_is_adopted(pki: TestPki, tmp_path: Path) -> None:
    """The server is killed, and the launcher replaced; afterwards a signal still reaches the main process alone, and
    its code is known."""
    script = "trap 'exit 6' HUP; sh -c 'trap \"echo child heard\" HUP; echo ready; while :; do sleep 0.05; done' & "
    async with running(pki, tmp_path, "--drain", "0.2") as (jobd, client):
        job = await client.start(["sh", "-c", f"{script} while :; do sleep 0.05; done"], isolation=WHOLE)
        async with client.stream(job.id) as output:
            assert (await anext(output)).data == b"ready\n"
            await trio.to_thread.run_sync(jobd.kill_server)
            upgrade = await trio.run_process(
                [sys.executable, "-m", "jobd", "upgrade", "--state", str(jobd.state)],
                check=False,
                capture_stderr=True,
                env={**os.environ, "PYTHONPATH": str(CODE)},
            )
            assert upgrade.returncode == 0, upgrade.stderr
            stopped = await client.stop(job.id, signum=signal.SIGHUP, main_only=True, grace=20)
            assert b"child heard" not in b"".join([chunk.data async for chunk in output])
        assert (stopped.state, stopped.exit_code) == (JobState.STOPPED, 6)


@needs_sandbox
async def test_sandboxed_jobs_leave_nothing_behind(pki: TestPki, tmp_path: Path) -> None:
    """Those that run to their end, those that are stopped and those that cannot be started: no process, and no
    descriptor of the launcher (as root sees them: it shows them to nobody else)."""
    async with running(pki, tmp_path) as (jobd, client):

        def descriptors() -> int:
            return len(list(Path(f"/proc/{jobd.launcher}/fd").iterdir())) if os.geteuid() == 0 else 0

        await client.wait((await client.start(["true"], isolation=WHOLE)).id)
        before = descriptors()
        mark = {"MARK": new_mark()}

        async def one(number: int) -> None:
            command = [["true"], ["sleep", "1000"], ["no-such-command"]][number % 3]
            job = await client.start(command, isolation=WHOLE, env=mark)
            await client.stop(job.id, grace=0)

        async with trio.open_nursery() as nursery:
            for number in range(15):
                nursery.start_soon(one, number)
        assert processes_with(mark["MARK"]) == []
        while descriptors() > before:
            await trio.sleep(0.01)


@needs_sandbox
async def test_a_limit_above_jobd_s_own_is_the_same_inside(pki: TestPki, tmp_path: Path) -> None:
    """Who may raise it has it raised before, since nobody may inside; who may not is told the same."""
    limits = Limits(open_files=min(resource.getrlimit(resource.RLIMIT_NOFILE)[1] + 1, 2**20))
    async with running(pki, tmp_path) as (_, client):
        jobs = [await client.start(["sh", "-c", "ulimit -n"], limits=limits, isolation=each) for each in (None, WHOLE)]
        outside, inside = await client.wait(*[job.id for job in jobs])
        assert (inside.state, inside.message) == (outside.state, outside.message)
        if inside.state == JobState.START_FAILED:
            assert inside.message == "the job's limits cannot be set: Operation not permitted"
        else:
            assert (await outcome(client, inside))[0] == (await outcome(client, outside))[0] == f"{limits.open_files}\n"


@needs_sandbox
async def test_what_made_the_sandbox_can_be_killed(pki: TestPki, tmp_path: Path) -> None:
    """By the job itself, as any of its processes: then it has ended, and nobody is left."""
    mark = new_mark()
    async with running(pki, tmp_path) as (_, client):
        job = await client.start(
            ["sh", "-c", "kill -9 $PPID; while :; do sleep 0.1; done"],
            isolation=Isolation(no_network=True),
            env={"MARK": mark},
        )
        [ended] = await client.wait(job.id)
        assert (ended.state, ended.signal) == (JobState.KILLED, signal.SIGKILL)
        assert processes_with(mark) == []
