"""Reading a log without waiting for a disk: only what is in memory, and nothing else than what is there."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobd.output.reader import LogReader
from jobd.output.writer import FAST, FULL, TAKE, LogWriter
from jobd.worker.ports import Gap, Record, Source

JOB = "0123abcd-0000-4000-8000-000000000000"
PIECE = bytes(range(256)) * 400


@contextmanager
def written(root: Path, pieces: int) -> Iterator[tuple[LogWriter, LogReader]]:
    """A log of so many pieces, of both streams in turn, and a reader that has read the first one."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reading, False)
    writer = LogWriter(root, JOB, limit=2**63)
    for number in range(pieces):
        view = memoryview(PIECE)
        while view:
            view = view[os.write(writing, view[: 32 * 1024]) :]
            writer.take(Source(1 + number % 2), reading, (number + 1) * 10**9)
    reader = LogReader(root, JOB)
    reader.read(0, writer.end, len(PIECE))
    yield writer, reader
    reader.close()
    writer.leave()
    os.close(reading)
    os.close(writing)


def test_what_is_in_memory_is_read_at_once(tmp_path: Path) -> None:
    """Byte for byte, and each byte of its stream."""
    with written(tmp_path, 8) as (writer, reader):
        found: list[Record] = []
        position = len(PIECE)
        while position < writer.end:
            records = reader.read_now(position, writer.end, 70_000)
            assert records
            found += [record for record in records if isinstance(record, Record)]
            position = records[-1].end
        for source in Source:
            own = b"".join(record.data for record in found if record.source is source)
            assert own == PIECE * (3 if source is Source.STDOUT else 4)


def test_what_is_on_the_disk_alone_is_not_waited_for(tmp_path: Path) -> None:
    """It is for a thread to read; the reader stands where it stood."""
    with written(tmp_path, 4) as (writer, reader):
        [data] = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".index"]
        with data.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert reader.read_now(len(PIECE), writer.end) is None
        records = reader.read(len(PIECE), writer.end)
        assert b"".join(each.data for each in records if isinstance(each, Record)) == PIECE * 3


def test_before_the_files_are_open_nothing_is_read_at_once(tmp_path: Path) -> None:
    """To open them may wait for the disk."""
    with written(tmp_path, 2) as (writer, _):
        reader = LogReader(tmp_path, JOB)
        assert reader.read_now(0, writer.end) is None


def test_a_file_system_that_does_not_tell_is_read_in_a_thread() -> None:
    """As tmpfs before Linux 6.6 (preadv2 has no RWF_NOWAIT there): it is asked once."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("needs a tmpfs at /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name, written(Path(name), 4) as (writer, reader):
        position = len(PIECE)
        while position < writer.end:
            records = reader.read_now(position, writer.end) or reader.read(position, writer.end)
            position = records[-1].end
        assert position == len(PIECE) * 4


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """One that takes all that is moved at a time: its reading and its writing end."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reading, False)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, TAKE)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


def test_what_a_fast_job_writes_meanwhile_is_moved_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one record, and not without end: others want their turn. For what is slow nobody waits."""
    writer = LogWriter(tmp_path, JOB, limit=2**63)
    with pipe() as (reading, writing):

        def take(before: int, meanwhile: int) -> int:
            os.write(writing, bytes(before))
            monkeypatch.setattr("jobd.output.writer.sleep", lambda _: os.write(writing, bytes(meanwhile)))
            record = writer.take(Source.STDOUT, reading, 1).record
            assert record is not None
            return len(record.data)

        assert take(FAST, 5) == FAST + 5
        assert take(FAST, 0) == FAST
        assert take(FAST, TAKE - FAST) == TAKE
        assert take(FAST - 1, 5) == FAST - 1
        assert take(TAKE, 5) == TAKE
    writer.leave()


def test_a_pipe_that_is_found_full_is_made_larger(tmp_path: Path) -> None:
    """Others stay as they are: all pipes of a user share what the system lets it have."""
    writer = LogWriter(tmp_path, JOB, limit=2**63)
    with pipe() as (reading, writing):
        sizes = []
        for written in (FAST, FULL):
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 256 * 1024)
            os.write(writing, bytes(written))
            assert writer.take(Source.STDOUT, reading, 1).record
            sizes.append(fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ))
        assert sizes == [256 * 1024, TAKE]
    writer.leave()


def test_what_cannot_be_read_back_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted, and told with what comes next."""
    writer = LogWriter(tmp_path, JOB, limit=2**63)
    with pipe() as (reading, writing):
        os.write(writing, b"before")
        assert writer.take(Source.STDOUT, reading, 1).record
        os.write(writing, bytes(TAKE))
        with monkeypatch.context() as patched:

            def fails(fd: int, size: int, position: int) -> bytes:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

            patched.setattr(os, "pread", fails)
            taken = writer.take(Source.STDOUT, reading, 1)
        assert (taken.record, taken.dropped, taken.error) == (None, TAKE, "Input/output error")
        os.write(writing, b"after")
        taken = writer.take(Source.STDOUT, reading, 2)
        assert taken.gap == Gap(6, TAKE)
        assert taken.record is not None
        assert (taken.record.offset, taken.record.data) == (6, b"after")
    writer.leave()


def test_a_limit_is_kept_at_one_go(tmp_path: Path) -> None:
    """What is beyond it is not recorded, however fast it comes."""
    writer = LogWriter(tmp_path, JOB, limit=FAST + 1)
    with pipe() as (reading, writing):
        os.write(writing, bytes(TAKE))
        record = writer.take(Source.STDOUT, reading, 1).record
        assert record is not None
        assert len(record.data) == FAST + 1
        assert writer.take(Source.STDOUT, reading, 1).dropped == TAKE - FAST - 1
        assert writer.end == FAST + 1
    writer.leave()
