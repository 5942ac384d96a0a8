"""The log of one job: one writer, followers that come whenever they like."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from structlog.typing import EventDict

from jobd.output.broadcast import BUFFER
from jobd.output.log import Log, LogStore
from jobd.output.segments import SegmentReader, SegmentWriter, recover, segments_of
from jobd.worker.errors import OutputDamagedError
from jobd.worker.ports import Record, Source
from tests.support.jobs import collect

JOB = "0123abcd-0000-4000-8000-000000000000"


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return LogStore(tmp_path).create(JOB)


async def test_a_follower_that_comes_late_gets_all_of_it(log: Log) -> None:
    """From the first byte, though it came when the job had ended."""
    for i in range(100):
        await log.append(Source.STDOUT, b"%d\n" % i)
    await log.finish()
    assert (await collect(log.follow(0)))[Source.STDOUT] == b"".join(b"%d\n" % i for i in range(100))


async def test_a_follower_listens_live_without_touching_the_disk_again(log: Log) -> None:
    """Once it has caught up it is fed through the broadcast."""
    follower = log.follow(0)
    async with trio.open_nursery() as nursery:
        got: list[Record] = []

        async def follow() -> None:
            while records := await follower.receive():
                got.extend(records)

        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        assert log.broadcast.readers == 1
        await log.append(Source.STDERR, b"live")
        await log.finish()
    follower.close()
    assert [(r.source, r.data) for r in got] == [(Source.STDERR, b"live")]
    assert log.broadcast.readers == 0


async def test_a_follower_that_falls_behind_reads_the_disk_until_it_has_caught_up(log: Log) -> None:
    """The writer never waits for it, its channel is bounded, and it misses nothing."""
    follower = log.follow(0)
    first: list[Record] = []
    async with trio.open_nursery() as nursery:

        async def take_one() -> None:
            first.extend(await follower.receive())

        nursery.start_soon(take_one)
        await trio.testing.wait_all_tasks_blocked()
        await log.append(Source.STDOUT, b"0,")
    for i in range(1, BUFFER * 5):
        await log.append(Source.STDOUT, b"%d," % i)
    assert log.broadcast.readers == 0  # it was left behind
    await log.finish()
    rest = (await collect(follower))[Source.STDOUT]
    assert b"".join(r.data for r in first) + rest == b"".join(b"%d," % i for i in range(BUFFER * 5))


async def test_any_two_readings_of_the_same_range_are_equal(log: Log) -> None:
    """Whether live, late, or from the middle of a record."""
    for i in range(50):
        await log.append(Source.STDOUT if i % 3 else Source.STDERR, os.urandom(i + 1))
    await log.finish()
    whole = [(r.offset, r.source, r.data) async for r in every(log, 0)]
    flat = b"".join(data for _, _, data in whole)
    for offset in range(0, len(flat) + 1, 7):
        assert b"".join([r.data async for r in every(log, offset)]) == flat[offset:]


async def every(log: Log, offset: int):  # type: ignore[no-untyped-def] # an async generator of Record
    follower = log.follow(offset)
    try:
        while records := await follower.receive():
            for record in records:
                yield record
    finally:
        follower.close()


async def test_a_silent_job_has_no_file(log: Log, tmp_path: Path) -> None:
    """Making a file costs more than most jobs that write nothing."""
    await log.finish()
    assert await collect(log.follow(0)) == {Source.STDOUT: b"", Source.STDERR: b""}
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_files_are_private(log: Log, tmp_path: Path) -> None:
    """Output can hold secrets: 0600 files in 0700 directories."""
    await log.append(Source.STDOUT, b"x")
    await log.finish()
    [file] = segments_of(tmp_path, JOB)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_segments_are_read_across_and_never_renamed(tmp_path: Path) -> None:
    """A reader goes from one numbered file to the next; a reader that begins in a later one opens just that."""
    writer = SegmentWriter(tmp_path, JOB, segment_size=100)
    for i in range(20):
        writer.append(Record(i * 10, Source.STDOUT, i, b"%010d" % i))
    writer.close()
    assert len(segments_of(tmp_path, JOB)) > 3
    for start in range(0, 200, 13):
        reader = SegmentReader(tmp_path, JOB, start, writer.index)
        data = b""
        while records := reader.read():
            data += b"".join(record.data for record in records)
        reader.close()
        assert data == b"".join(b"%010d" % i for i in range(20))[start:]


def test_recovery_cuts_a_torn_tail_and_finds_the_end(tmp_path: Path) -> None:
    """After a crash the log ends with its last whole record."""
    writer = SegmentWriter(tmp_path, JOB)
    writer.append(Record(0, Source.STDOUT, 1, b"whole"))
    writer.append(Record(5, Source.STDOUT, 2, b"torn"))
    writer.close()
    [file] = segments_of(tmp_path, JOB)
    os.truncate(file, file.stat().st_size - 1)
    assert recover(tmp_path, JOB) == 5
    assert recover(tmp_path, JOB) == 5
    assert file.stat().st_size == 32 + 5


def test_a_job_without_a_file_recovers_to_nothing(tmp_path: Path) -> None:
    """Nothing was written, nothing is missing."""
    assert recover(tmp_path, JOB) == 0


@contextmanager
def small_files() -> Iterator[None]:
    """No file may grow beyond 1,000 bytes: the kernel then fails writes as a full disk does.

    For this block only: the limit is the whole process's, and pytest's own output may go to a file.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


async def test_what_cannot_be_recorded_is_counted_and_the_rest_stays_whole(
    log: Log, errors_expected: list[EventDict], log_guard: list[EventDict]
) -> None:
    """A full disk never holds up the job: what does not fit is dropped and counted, never half recorded."""
    with small_files():
        await log.append(Source.STDOUT, b"a" * 500)
        await log.append(Source.STDOUT, b"b" * 600)
        await log.append(Source.STDOUT, b"c" * 100)
    await log.finish()
    assert (log.end, log.dropped) == (600, 600)
    assert (await collect(log.follow(0)))[Source.STDOUT] == b"a" * 500 + b"c" * 100
    [error] = [entry for entry in log_guard if entry["log_level"] == "error"]
    assert error["error"] == os.strerror(errno.EFBIG)


async def test_output_that_was_taken_away_is_an_error_not_an_end(
    log: Log, tmp_path: Path, errors_expected: list[EventDict]
) -> None:
    """A reader is never told that there was less than there was."""
    await log.append(Source.STDOUT, b"x" * 10)
    await log.finish()
    segments_of(tmp_path, JOB)[0].unlink()
    with pytest.raises(OutputDamagedError):
        await collect(log.follow(0))


async def test_a_reader_that_lived_on_the_broadcast_does_not_read_it_all_again(log: Log) -> None:
    """When it lags, it goes on near where it was (the index), not from the first byte."""
    for _ in range(40):
        await log.append(Source.STDOUT, bytes(100_000))
    place = log._writer.index.place(3_500_000)
    assert place is not None
    assert place[1] > 2_000_000
    follower = log.follow(3_950_000)
    records = await follower.receive()
    assert (records[0].offset, len(records[0].data)) == (3_950_000, 50_000)
    follower.close()
    await log.finish()
