"""The worker library: start, query, stream and wait, with real processes and no network."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest
import trio
import trio.testing

from jobd.limits.walk import Walk
from jobd.worker.errors import InvalidSpecError, JobNotFoundError
from jobd.worker.job import JobSpec, Reason
from jobd.worker.lifecycle import State
from jobd.worker.ports import Source, Start
from jobd.worker.worker import Worker
from tests.support.jobs import collect, new_mark, processes_with, shell, until_output


async def test_start_gives_a_uuid_and_a_running_process(worker: Worker) -> None:
    """The job is there, under an id that is a UUID, with a pid that exists."""
    job = await worker.start(JobSpec(("sleep", "60")))
    assert str(uuid.UUID(job.id)) == job.id
    assert job.state is State.RUNNING
    os.kill(job.pid, 0)


async def test_exit_codes_are_kept_verbatim(worker: Worker) -> None:
    """0 is succeeded, anything else is failed, and the code is the process's own."""
    ends = [await worker.wait((await worker.start(shell(f"exit {code}"))).id) for code in (0, 1, 42, 255)]
    assert [(job.state, job.exit_code, job.signal) for job in ends] == [
        (State.SUCCEEDED, 0, None),
        (State.FAILED, 1, None),
        (State.FAILED, 42, None),
        (State.FAILED, 255, None),
    ]


async def test_a_death_by_signal_is_not_an_exit_code(worker: Worker) -> None:
    """A signal that nobody here sent: killed, with the signal, and no code is made up."""
    job = await worker.wait((await worker.start(shell("kill -KILL $$"))).id)
    assert (job.state, job.exit_code, job.signal, job.reason) == (State.KILLED, None, 9, Reason.SIGNALLED)


async def test_output_is_complete_when_the_end_is_published(worker: Worker) -> None:
    """Whoever hears of the end finds every byte recorded, of a process that was gone at once too."""
    for _ in range(20):
        job = await worker.wait((await worker.start(shell("printf tail"))).id)
        assert job.output_bytes == 4
        assert (await collect(await worker.stream(job.id)))[Source.STDOUT] == b"tail"


async def test_bytes_arrive_as_written(worker: Worker) -> None:
    """NUL, invalid UTF-8, an unterminated last line; stdout and stderr apart."""
    job = await worker.start(shell(r"printf '\0\377\200x\ny'; printf '\001' >&2"))
    assert await collect(await worker.stream(job.id)) == {Source.STDOUT: b"\0\xff\x80x\ny", Source.STDERR: b"\x01"}


async def test_a_job_that_closes_its_output_goes_on(worker: Worker, tmp_path: Path) -> None:
    """Its streams have ended, it has not; its end and its code are awaited."""
    gate = tmp_path / "gate"
    job = await worker.start(shell(f"echo early; exec >&- 2>&-; until test -e {gate}; do sleep 0.01; done; exit 4"))
    await until_output(worker, job.id, b"early\n")
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert worker.query(job.id).state is State.RUNNING
    gate.touch()
    ended = await worker.wait(job.id)
    assert (ended.exit_code, ended.output_bytes) == (4, 6)


async def test_a_stream_is_live(worker: Worker, tmp_path: Path) -> None:
    """What the job wrote arrives while it still runs."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    job = await worker.start(shell(f"echo before; read x < {gate}; echo after"))
    await until_output(worker, job.id, b"before\n")
    assert worker.query(job.id).state is State.RUNNING
    await trio.to_thread.run_sync(gate.write_text, "go\n")
    assert (await collect(await worker.stream(job.id)))[Source.STDOUT] == b"before\nafter\n"


async def test_a_stream_begins_at_any_offset(worker: Worker) -> None:
    """Offsets count the bytes of both streams; a follower that begins in the middle gets exactly the rest."""
    job = await worker.wait((await worker.start(shell("printf 0123456789"))).id)
    for offset in range(11):
        assert (await collect(await worker.stream(job.id, Start(offset=offset))))[Source.STDOUT] == b"0123456789"[
            offset:
        ]


async def test_followers_do_not_hold_each_other_up(worker: Worker) -> None:
    """One that never reads costs the others, and the job, nothing."""
    job = await worker.start(shell("head -c 3000000 /dev/zero"))
    stalled = await worker.stream(job.id)
    await stalled.receive()
    got = await collect(await worker.stream(job.id))
    assert len(got[Source.STDOUT]) == 3_000_000
    assert (await worker.wait(job.id)).output_bytes == 3_000_000
    stalled.close()


async def test_the_environment_is_clean(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the daemon's environment reaches a job; what was asked for does, over the base."""
    monkeypatch.setenv("DAEMON_SECRET", "hunter2")
    job = await worker.start(JobSpec(("env",), env={"MINE": "a b", "LANG": "C"}))
    lines = (await collect(await worker.stream(job.id)))[Source.STDOUT].decode().splitlines()
    names = {line.split("=")[0] for line in lines}
    assert {"MINE=a b", "LANG=C", f"JOBD_JOB_ID={job.id}"} <= set(lines)
    assert names <= {"PATH", "HOME", "USER", "LOGNAME", "LANG", "JOBD_JOB_ID", "MINE", "PWD", "SHLVL", "_"}


async def test_stdin_is_empty_and_the_directory_is_the_one_asked_for(worker: Worker, tmp_path: Path) -> None:
    """A job that reads stdin meets its end; it starts in its cwd."""
    job = await worker.start(shell("cat; pwd", cwd=str(tmp_path)))
    assert (await collect(await worker.stream(job.id)))[Source.STDOUT].decode() == f"{tmp_path}\n"


async def test_a_job_inherits_no_descriptor(worker: Worker) -> None:
    """Only stdin, stdout and stderr are open in it (and ls's own)."""
    job = await worker.start(JobSpec(("ls", "/proc/self/fd")))
    assert (await collect(await worker.stream(job.id)))[Source.STDOUT].split() == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (JobSpec(("no-such-command-anywhere",)), Reason.COMMAND_NOT_FOUND),
        (JobSpec(("/no/such/file",)), Reason.COMMAND_NOT_FOUND),
        (JobSpec(("/etc/hostname",)), Reason.NOT_EXECUTABLE),
        (JobSpec(("/etc",)), Reason.NOT_EXECUTABLE),
        (JobSpec(("true",), cwd="/no/such/dir"), Reason.CWD_UNUSABLE),
        (JobSpec(("true", "x" * 200_000)), Reason.ARGUMENTS_TOO_LONG),
    ],
)
async def test_what_cannot_be_launched_fails_to_start_and_says_why(worker: Worker, spec: JobSpec, reason: str) -> None:
    """The job exists, ended, with a reason and a sentence; it never had a pid or an exit code."""
    job = await worker.start(spec)
    assert (job.state, job.reason, job.pid, job.exit_code) == (State.START_FAILED, reason, 0, None)
    assert job.message
    assert await collect(await worker.stream(job.id)) == {Source.STDOUT: b"", Source.STDERR: b""}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (JobSpec(()), "spec.argv"),
        (JobSpec(("",)), "spec.argv"),
        (JobSpec(("echo", "a\0b")), "spec.argv[1]"),
        (JobSpec(("true",), name="x" * 129), "spec.name"),
        (JobSpec(("true",), name="a\x1b[2J"), "spec.name"),
        (JobSpec(("true",), env={"A=B": "c"}), "spec.env"),
        (JobSpec(("true",), env={"A": "\0"}), "spec.env['A']"),
        (JobSpec(("true",), cwd="relative"), "spec.cwd"),
    ],
)
async def test_what_the_kernel_cannot_take_is_refused_by_field(worker: Worker, spec: JobSpec, field: str) -> None:
    """Nothing is started, and the error names the field."""
    with pytest.raises(InvalidSpecError) as caught:
        await worker.start(spec)
    assert [v.field for v in caught.value.violations] == [field]
    assert worker.jobs == []


async def test_an_unknown_job_is_not_found(worker: Worker) -> None:
    """Every question about it says so."""
    with pytest.raises(JobNotFoundError):
        worker.query("no-such-id")
    with pytest.raises(JobNotFoundError):
        await worker.stop("no-such-id")


async def test_an_ended_job_can_be_forgotten(worker: Worker) -> None:
    """A running one cannot."""
    job = await worker.start(JobSpec(("sleep", "60")))
    worker.forget(job.id)
    assert worker.query(job.id).state is State.RUNNING
    await worker.stop(job.id)
    worker.forget(job.id)
    with pytest.raises(JobNotFoundError):
        worker.query(job.id)


async def test_hundreds_of_jobs_at_once_each_keep_their_own_output(worker: Worker) -> None:
    """No mixing, no loss, no leak (the guards of the suite look at descriptors and children)."""
    jobs = [await worker.start(shell(f"echo {i}; echo {i} >&2; exit {i % 7}")) for i in range(100)]
    for i, job in enumerate(jobs):
        ended = await worker.wait(job.id)
        assert ended.exit_code == i % 7
        assert await collect(await worker.stream(job.id)) == dict.fromkeys(Source, b"%d\n" % i)


async def test_the_end_of_the_nursery_ends_the_jobs(tmp_path: Path) -> None:
    """Cancelling a worker leaves no process behind, and every job has a published end."""
    from jobd.launcher.local import LocalLauncher
    from jobd.output.log import LogStore

    mark = new_mark()
    async with trio.open_nursery() as nursery:
        worker = Worker(nursery, LocalLauncher(Walk()), LogStore(tmp_path))
        jobs = [await worker.start(shell("sleep 60 & sleep 60", env={"MARK": mark})) for _ in range(3)]
        nursery.cancel_scope.cancel()
    assert processes_with(mark) == []
    assert [worker.query(job.id).state for job in jobs] == [State.STOPPED] * 3
    assert {worker.query(job.id).reason for job in jobs} == {Reason.WORKER_SHUT_DOWN}
