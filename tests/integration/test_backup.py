"""``jobd backup`` and ``jobd restore``, as an operator runs them: while jobd runs, and onto another machine."""

from __future__ import annotations

import io
import os
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

import pytest
import trio

from api.client import JobClient
from api.messages import JobState
from jobd.backup.archive import STORE, ArchiveWriter, extract
from tests.support.daemon import JobdProgram, jobd_program
from tests.support.jobs import new_mark, processes_with
from tests.support.pki import TestPki
from tests.support.program import SECONDS
from tests.support.records import make_store

OUTPUT = bytes(range(256)) * 2000
SECRET = {"PASSWORD": "not-in-a-backup"}


def run(*arguments: object, stdin: bytes = b"", code: int = 0) -> subprocess.CompletedProcess[bytes]:
    """A command of jobd, and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "jobd", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    return done


@asynccontextmanager
async def client_of(pki: TestPki, jobd: JobdProgram) -> AsyncIterator[JobClient]:
    with trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=0) as client:
            yield client


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def output_of(client: JobClient, job_id: str) -> tuple[bytes, int, int]:
    """Of a job that has ended: what it wrote, and how much of it there is and is not."""
    async with client.stream(job_id) as output:
        written = b"".join([piece.data async for piece in output])
    assert output.verdict
    return written, output.verdict.end_offset, output.verdict.dropped_bytes


async def test_a_running_jobd_is_backed_up_and_restored_elsewhere(pki: TestPki, tmp_path: Path) -> None:
    """What had ended is there, byte for byte; what had not is lost, keeps what it had written, and is not started."""
    mark, there = new_mark(), tmp_path / "there"
    wrote, backup = tmp_path / "wrote", tmp_path / "backup"
    with jobd_program(pki, tmp_path / "here", "--slots", "1") as jobd:
        async with client_of(pki, jobd) as client:
            wrote.write_bytes(OUTPUT)
            ended = await client.start(["cat", str(wrote)], request_id="11111111-0000-4000-8000-000000000000")
            await client.wait(ended.id)
            running = await client.start(
                ["sh", "-c", "echo begun; exec sleep 60"],
                env={"MARK": mark},
                secrets=SECRET,
            )
            async with client.stream(running.id) as output:
                async for piece in output:
                    assert piece.data == b"begun\n"
                    break
            pending = await client.start(["touch", str(tmp_path / "ran")], secrets=SECRET)
            assert pending.state == JobState.PENDING
            said = await trio.to_thread.run_sync(run, "backup", "--state", tmp_path / "here", backup)
            assert said.stderr == b"jobd backup: 3 jobs, 2 of them not ended yet, 512006 bytes of output\n"
            assert (await client.query(running.id)).state == JobState.RUNNING
    assert backup.stat().st_mode & 0o777 == 0o600
    assert b"not-in-a-backup" not in backup.read_bytes()
    assert processes_with(mark) == []
    run("restore", "--state", there, backup)
    assert names_in(there) == ["jobs.sqlite3", "lock", "output"]
    (tmp_path / "ran").unlink(missing_ok=True)
    with jobd_program(pki, there) as jobd:
        async with client_of(pki, jobd) as client:
            [one] = await client.wait(ended.id)
            assert (one.state, one.exit_code) == (JobState.SUCCEEDED, 0)
            assert await output_of(client, ended.id) == (OUTPUT, len(OUTPUT), 0)
            for job, written in ((running, b"begun\n"), (pending, b"")):
                [lost] = await client.wait(job.id)
                assert (lost.state, lost.reason) == (JobState.LOST, "RESTORED")
                assert "backup of 20" in lost.message
                assert await output_of(client, job.id) == (written, len(written), 0)
            again = await client.start(["cat", str(wrote)], request_id="11111111-0000-4000-8000-000000000000")
            assert again.id == ended.id
    assert processes_with(mark) == []
    assert not (tmp_path / "ran").exists()


async def test_a_backup_can_leave_out_what_jobs_wrote(pki: TestPki, tmp_path: Path) -> None:
    """Then it counts as dropped: nobody takes no output for all that there was. Over a pipe, as well as with files."""
    with jobd_program(pki, tmp_path / "here") as jobd:
        async with client_of(pki, jobd) as client:
            ended = await client.start(["echo", "much"])
            await client.wait(ended.id)
            running = await client.start(["sh", "-c", "echo begun; exec sleep 60"])
            async with client.stream(running.id) as output:
                async for _ in output:
                    break
            there = partial(run, "backup", "--state", tmp_path / "here", "--no-output", "-")
            backup = (await trio.to_thread.run_sync(there)).stdout
    with tarfile.open(fileobj=io.BytesIO(backup)) as tar:
        assert tar.getnames() == ["jobs.sqlite3", "MANIFEST.json"]
    run("restore", "--state", tmp_path / "there", "-", stdin=backup)
    with jobd_program(pki, tmp_path / "there") as jobd:
        async with client_of(pki, jobd) as client:
            assert await output_of(client, ended.id) == (b"", 0, 5)
            assert await output_of(client, running.id) == (b"", 0, 6)


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_stream_that_is_closed_is_said(tmp_path: Path, command: str) -> None:
    """In one sentence, like a file that is not there."""
    make_store(tmp_path / "here", 1)
    state = tmp_path / ("here" if command == "backup" else "there")
    done = subprocess.run(
        ["sh", "-c", '"$@" <&- >&-', "sh", sys.executable, "-m", "jobd", command, "--state", str(state), "-"],
        stderr=subprocess.PIPE,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done.stderr


def test_a_store_that_does_things_by_itself_is_not_restored(tmp_path: Path) -> None:
    """It could begin to run something when its jobs are ended."""
    state = make_store(tmp_path / "here", 3)
    run("backup", "--state", state, tmp_path / "backup")
    room = tmp_path / "room"
    room.mkdir()
    with (tmp_path / "backup").open("rb") as file:
        made_at = extract(file, room)
    with closing(sqlite3.connect(room / STORE)) as db:
        db.execute("CREATE TRIGGER t AFTER UPDATE ON jobs BEGIN INSERT INTO deletions VALUES ('x'); END")
        db.commit()
    stream = io.BytesIO()
    with ArchiveWriter(stream, made_at) as writer:
        writer.add(STORE, room / STORE)
        writer.finish()
    said = run("restore", "--state", tmp_path / "there", "-", stdin=stream.getvalue(), code=2).stderr
    assert b"does things by itself" in said
    assert names_in(tmp_path / "there") == ["lock"]


def test_what_cannot_be_is_refused_and_touches_nothing(pki: TestPki, tmp_path: Path) -> None:
    """By its name, in one sentence; no file that is there is written over, and no state directory that is in use."""
    state = tmp_path / "state"
    assert b"has no job store" in run("backup", "--state", state, tmp_path / "backup", code=2).stderr
    assert b"missing: --state" in run("backup", tmp_path / "backup", code=2).stderr
    with jobd_program(pki, state):
        run("backup", "--state", state, tmp_path / "backup")
        before = (tmp_path / "backup").read_bytes()
        assert b"File exists" in run("backup", "--state", state, tmp_path / "backup", code=2).stderr
        assert b"is held by another jobd" in run("restore", "--state", state, tmp_path / "backup", code=2).stderr
        with Path("/dev/full").open("wb") as full:
            command = [sys.executable, "-m", "jobd", "backup", "--state", str(state), "-"]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=SECONDS, check=False)
        assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
        assert b"No space left" in done.stderr
    assert (tmp_path / "backup").read_bytes() == before
    assert b"is not empty" in run("restore", "--state", state, tmp_path / "backup", code=2).stderr
    assert b"cannot be read" in run("restore", "--state", tmp_path / "new", tmp_path / "none", code=2).stderr
    cut = tmp_path / "cut"
    cut.write_bytes(before[: len(before) // 2])
    said = run("restore", "--state", tmp_path / "new", cut, code=1).stderr
    assert said.startswith(f"jobd restore: {cut}: it is not".encode())
    assert said.endswith(b"; nothing was restored\n")
    assert names_in(tmp_path / "new") == ["lock"]
    run("restore", "--state", tmp_path / "new", tmp_path / "backup")


def test_a_jobd_does_not_begin_where_a_restore_was_cut_off(pki: TestPki, tmp_path: Path) -> None:
    """It would make an empty store in place of the one that was to come back; jobd check says so, too."""
    state = tmp_path / "state"
    (state / "restoring" / "output").mkdir(parents=True)
    for directory in (state, state / "restoring"):
        directory.chmod(0o700)
    flags = [text for name, path in pki.server().items() for text in (f"--{name}", str(path))]
    flags += ["--state", str(state), "--listen", "127.0.0.1:0"]
    assert b"was cut off: empty that directory, and restore again" in run(*flags, code=2).stderr
    assert b"wrong    records: a restore into" in run("check", *flags, code=1).stdout
    assert not (state / "jobs.sqlite3").exists()


@pytest.mark.root
def test_a_state_directory_is_backed_up_by_whom_it_belongs_to(pki: TestPki, tmp_path: Path) -> None:
    """As root, files could be read that whoever had taken over the server has put there."""
    with jobd_program(pki, tmp_path / "state"):
        pass
    os.chown(tmp_path / "state", 12345, 12345)
    said = run("backup", "--state", tmp_path / "state", tmp_path / "backup", code=2).stderr
    assert b"belongs to uid 12345: run this as that user" in said
