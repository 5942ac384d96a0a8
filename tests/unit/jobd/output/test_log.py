"""The log of one job: one writer, followers that come whenever they like."""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import pytest
import trio
from structlog.typing import EventDict

from jobd.output.broadcast import BUFFER
from jobd.output.log import Log, LogStore
from jobd.worker.errors import OutputDamagedError
from jobd.worker.ports import Gap, Record, Source, Start
from tests.support.jobs import collect, put

JOB = "0123abcd-0000-4000-8000-000000000000"


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return LogStore(tmp_path).create(JOB)


async def test_a_follower_that_comes_late_gets_all_of_it(log: Log) -> None:
    """From the first byte, though it came when the job had ended."""
    for i in range(100):
        await put(log, Source.STDOUT, b"%d\n" % i)
    await log.finish()
    assert (await collect(await log.follow(Start())))[Source.STDOUT] == b"".join(b"%d\n" % i for i in range(100))


async def test_a_follower_listens_live_without_touching_the_disk_again(log: Log) -> None:
    """Once it has caught up it is fed through the broadcast."""
    follower = await log.follow(Start())
    async with trio.open_nursery() as nursery:
        got: list[Record] = []

        async def follow() -> None:
            while records := await follower.receive():
                got.extend(records)

        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        assert log.broadcast.readers == 1
        await put(log, Source.STDERR, b"live")
        await log.finish()
    follower.close()
    assert [(r.source, r.data) for r in got] == [(Source.STDERR, b"live")]
    assert log.broadcast.readers == 0


async def test_a_gap_that_is_read_while_it_is_being_made_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the disk it stands a moment before it is told to those who listen."""
    log = LogStore(tmp_path).create(JOB, limit=4)
    await put(log, Source.STDOUT, b"kept")
    await put(log, Source.STDOUT, b"dropped")
    on_disk, go_on, finish = trio.Event(), threading.Event(), log._writer.finish

    def slow_finish(time: int) -> None:
        finish(time)
        trio.from_thread.run_sync(on_disk.set)
        assert go_on.wait(10)

    monkeypatch.setattr(log._writer, "finish", slow_finish)
    follower, gaps = await log.follow(Start()), list[Gap]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.finish)
        await on_disk.wait()
        gaps += [event for event in await follower.receive() if isinstance(event, Gap)]
        assert gaps == [Gap(4, 7)]

        async def follow() -> None:
            while events := await follower.receive():
                gaps.extend(event for event in events if isinstance(event, Gap))

        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
    follower.close()
    assert gaps == [Gap(4, 7)]


async def test_a_follower_that_falls_behind_reads_the_disk_until_it_has_caught_up(log: Log) -> None:
    """The writer never waits for it, its channel is bounded, and it misses nothing."""
    follower = await log.follow(Start())
    first: list[Record] = []
    async with trio.open_nursery() as nursery:

        async def take_one() -> None:
            first.extend(await follower.receive())

        nursery.start_soon(take_one)
        await trio.testing.wait_all_tasks_blocked()
        await put(log, Source.STDOUT, b"0,")
    for i in range(1, BUFFER * 5):
        await put(log, Source.STDOUT, b"%d," % i)
    assert log.broadcast.readers == 0  # it was left behind
    await log.finish()
    rest = (await collect(follower))[Source.STDOUT]
    assert b"".join(r.data for r in first) + rest == b"".join(b"%d," % i for i in range(BUFFER * 5))


async def test_any_two_readings_of_the_same_range_are_equal(log: Log) -> None:
    """Whether live, late, or from the middle of a run."""
    written = b""
    for i in range(50):
        data = os.urandom(i + 1)
        written += data
        await put(log, Source.STDOUT if i % 3 else Source.STDERR, data)
    await log.finish()
    for offset in range(0, len(written) + 1, 7):
        async with aclosing(every(log, offset)) as records:
            assert b"".join([r.data async for r in records]) == written[offset:]


async def every(log: Log, offset: int) -> AsyncIterator[Record]:
    follower = await log.follow(Start(offset=offset))
    try:
        while records := await follower.receive():
            for record in records:
                assert isinstance(record, Record)
                yield record
    finally:
        follower.close()


async def test_a_silent_job_has_no_file(log: Log, tmp_path: Path) -> None:
    """Making a file costs more than most jobs that write nothing."""
    await log.finish()
    assert await collect(await log.follow(Start())) == {Source.STDOUT: b"", Source.STDERR: b""}
    assert list(tmp_path.iterdir()) == []


async def test_files_are_private_and_hold_the_bytes_as_they_are(log: Log, tmp_path: Path) -> None:
    """Output can hold secrets: 0600 files in a 0700 directory. An operator can read the data file as it is."""
    await put(log, Source.STDOUT, b"x\n")
    await log.finish()
    files = sorted((tmp_path / JOB[:2]).iterdir())
    assert [(file.name, file.stat().st_mode & 0o777) for file in files] == [
        (f"{JOB}.{0:016x}", 0o600),
        (f"{JOB}.{0:016x}.index", 0o600),
    ]
    assert files[0].read_bytes() == b"x\n"
    assert files[0].parent.stat().st_mode & 0o777 == 0o700


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
    log: Log, log_guard: list[EventDict]
) -> None:
    """A full disk never holds up the job: what does not fit is dropped and counted, and with room it goes on."""
    with small_files():
        await put(log, Source.STDOUT, b"a" * 1000)
        await put(log, Source.STDOUT, b"b" * 600)
    await put(log, Source.STDERR, b"c" * 100)
    await log.finish()
    assert (log.end, log.dropped) == (1100, 600)
    assert await collect(await log.follow(Start())) == {Source.STDOUT: b"a" * 1000, Source.STDERR: b"c" * 100}
    [error] = [entry for entry in log_guard if entry["log_level"] == "warning"]
    assert error["error"] == os.strerror(errno.EFBIG)


async def test_output_that_was_taken_away_is_an_error_not_an_end(
    log: Log, tmp_path: Path, errors_expected: list[EventDict]
) -> None:
    """A reader is never told that there was less than there was."""
    await put(log, Source.STDOUT, b"x" * 10)
    await log.finish()
    for file in (tmp_path / JOB[:2]).iterdir():
        file.unlink()
    with pytest.raises(OutputDamagedError):
        await collect(await log.follow(Start()))


@pytest.mark.parametrize("position", [0, 4_999, 9_999])
async def test_output_that_was_changed_is_an_error(
    log: Log, tmp_path: Path, errors_expected: list[EventDict], position: int
) -> None:
    """A flipped bit anywhere in a run is found when the run is read whole."""
    await put(log, Source.STDOUT, bytes(10_000))
    await log.finish()
    [data] = [file for file in (tmp_path / JOB[:2]).iterdir() if not file.name.endswith(".index")]
    content = bytearray(data.read_bytes())
    content[position] ^= 1
    data.write_bytes(content)
    with pytest.raises(OutputDamagedError):
        await collect(await log.follow(Start()))


async def test_an_index_that_was_changed_is_an_error(
    log: Log, tmp_path: Path, errors_expected: list[EventDict]
) -> None:
    """It is never read as if it said less."""
    await put(log, Source.STDOUT, b"x" * 10)
    await log.finish()
    [index] = (tmp_path / JOB[:2]).glob("*.index")
    index.write_bytes(bytes(len(index.read_bytes())))
    with pytest.raises(OutputDamagedError):
        await collect(await log.follow(Start()))
