"""Output that comes fast, and output that comes in lines: how each is recorded."""

from __future__ import annotations

import fcntl
import itertools
import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from jobd.output import disk as disk_module
from jobd.output import files as files_module
from jobd.output import log as log_module
from jobd.output import writer as writer_module
from jobd.output.budget import Budget
from jobd.output.disk import SMALL
from jobd.output.log import NO_LIMIT, Log, LogStore
from jobd.output.reader import LogReader
from jobd.output.writer import ENOUGH, FAST, ROUNDS, LogWriter
from jobd.worker.ports import Record, Source, Start
from tests.support.jobs import collect, put

JOB = "0123abcd-0000-4000-8000-000000000000"
MUCH = bytes(range(251)) * (FAST * 3 // 251)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """One with room for much."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reading, False)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 1024 * 1024)
    yield reading, writing
    os.close(reading)
    os.close(writing)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done in a thread."""
    seen: list[str] = []
    real = trio.to_thread.run_sync

    async def run_sync(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        called = function.func if isinstance(function, partial) else function
        seen.append(called.__name__)
        return await real(function, *args, **options)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    return seen


def writes_on(writer: LogWriter, writing: int, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """A job that has written again whenever something was taken, so many times."""
    left = itertools.count(1)
    real = writer.take

    def take(*args: Any, **options: Any) -> Any:
        taken = real(*args, **options)
        if taken.size and next(left) < times:
            os.write(writing, MUCH)
        return taken

    monkeypatch.setattr(writer, "take", take)
    os.write(writing, MUCH)


@pytest.mark.parametrize("wanted", [0, len(MUCH), 2 * len(MUCH), 9 * len(MUCH)])
def test_a_thread_goes_on_as_long_as_the_job_writes_fast(
    tmp_path: Path, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, wanted: int
) -> None:
    """What nobody wants is summed up and not kept; what somebody wants is brought back before there is more of it. The
    log is the same."""
    reading, writing = pipe
    writer = LogWriter(tmp_path, JOB, limit=2**63)
    writes_on(writer, writing, monkeypatch, 4)
    taken = writer.take_on(Source.STDOUT, reading, lambda: 1, wanted)
    count = min(wanted // len(MUCH) or 4, 4)
    assert [each.size for each in taken] == [len(MUCH)] * count + [0] * (count == 4)
    kept = [each.record for each in taken if each.record]
    assert b"".join(record.data for record in kept) == MUCH * count * bool(wanted)
    while taken[-1].size:
        taken = writer.take_on(Source.STDOUT, reading, lambda: 1, wanted)
    writer.finish(2)
    reader = LogReader(tmp_path, JOB)
    position, found = 0, b""
    while position < writer.end:
        records = reader.read(position, writer.end)
        found += b"".join(record.data for record in records if isinstance(record, Record))
        position = records[-1].end
    reader.close()
    assert found == MUCH * 4


@pytest.mark.parametrize(("awaited_after", "count"), [(0, ROUNDS), (3, 3)])
def test_a_thread_comes_back_from_a_job_that_never_stops(
    tmp_path: Path, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, awaited_after: int, count: int
) -> None:
    """The job's other stream has its turn, and those who follow hear of it; sooner, when somebody has begun to wait at
    the end, who hears of nothing before."""
    reading, writing = pipe
    writer = LogWriter(tmp_path, JOB, limit=2**63)
    writes_on(writer, writing, monkeypatch, 100)
    asked = itertools.count(1)
    writer.awaited = lambda: next(asked) == awaited_after
    assert len(writer.take_on(Source.STDOUT, reading, lambda: 1, 0)) == count
    writer.leave()


async def test_who_listens_is_who_waits(tmp_path: Path, pipe: tuple[int, int]) -> None:
    """From when it has come to the end, until it leaves."""
    log = LogStore(tmp_path).create(JOB)
    follower = await log.follow(Start())
    assert not log._writer.awaited()
    with trio.move_on_after(0):
        await follower.receive()
    assert log._writer.awaited()
    follower.close()
    assert not log._writer.awaited()
    await log.leave()


def test_the_limit_of_all_jobs_is_not_passed_by_more_than_one_piece(
    tmp_path: Path, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though what is taken is counted only when the thread has come back."""
    reading, writing = pipe
    writer = LogWriter(tmp_path, JOB, limit=2**63, budget=Budget(2 * len(MUCH)))
    writes_on(writer, writing, monkeypatch, 100)
    assert sum(each.size for each in writer.take_on(Source.STDOUT, reading, lambda: 1, 0)) == 2 * len(MUCH)
    writer.leave()


def test_a_run_of_much_may_last_longer(tmp_path: Path, pipe: tuple[int, int]) -> None:
    """Than one of a few bytes, or what comes fast would be cut small."""
    reading, writing = pipe
    for data, entries in ((MUCH, 1), (b"line", 2)):
        writer = LogWriter(tmp_path / str(entries), JOB, limit=2**63)
        for number in (1, 2):
            os.write(writing, data)
            writer.take(Source.STDOUT, reading, number * writer_module.RUN_TIME)
        assert writer._entries == entries
        writer.leave()


async def test_those_who_listen_miss_nothing_of_what_is_not_kept(tmp_path: Path, pipe: tuple[int, int]) -> None:
    """They read it from the disk."""
    reading, writing = pipe
    log = LogStore(tmp_path).create(JOB)
    follower = await log.follow(Start())
    found: dict[Source, bytes] = {}

    async def follow() -> None:
        found.update(await collect(follower))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        assert log.broadcast.readers == 1
        log._tell((await written(log, reading, writing))[0])
        await log.finish()
    assert found[Source.STDOUT] == MUCH


async def written(log: Log, reading: int, writing: int) -> Any:
    os.write(writing, MUCH)
    taken = log._writer.take_on(Source.STDOUT, reading, lambda: 1, 0)
    log._advance()
    return taken


async def test_a_line_is_recorded_without_a_thread(
    tmp_path: Path, threads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the first: it makes the files. Much at once is a thread's again."""
    monkeypatch.setattr(disk_module, "STALL", math.inf)  # a busy machine is no slow disk
    log = LogStore(tmp_path).create(JOB)
    await put(log, Source.STDOUT, b"first\n")
    assert threads == ["take_on"]
    for _ in range(10):
        await put(log, Source.STDOUT, b"line\n")
        await put(log, Source.STDERR, bytes(SMALL))
    assert threads == ["take_on"]
    await put(log, Source.STDOUT, bytes(SMALL + 1))
    assert threads == ["take_on"] * 2
    await log.finish()


async def test_a_disk_that_was_waited_for_is_left_to_threads(
    tmp_path: Path, threads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a while: the page cache may be full of what it has not written yet."""
    log = LogStore(tmp_path).create(JOB)
    await put(log, Source.STDOUT, b"first\n")
    monkeypatch.setattr(disk_module, "STALL", -1.0)
    monkeypatch.setattr(disk_module, "_waits", itertools.count().__next__)
    await put(log, Source.STDOUT, b"waited for\n")
    assert threads == ["take_on"]
    await put(log, Source.STDOUT, b"line\n")
    assert threads == ["take_on"] * 2
    log._disk.wary_until = 0.0
    await put(log, Source.STDOUT, b"line\n")
    assert threads == ["take_on"] * 2
    await log.finish()


async def test_what_one_log_waited_for_no_log_goes_near(
    tmp_path: Path, threads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one disk."""
    store = LogStore(tmp_path)
    one, other = (store.create(f"{JOB[:-1]}{number}") for number in (1, 2))
    for log in (one, other):
        await put(log, Source.STDOUT, b"first\n")
    threads.clear()
    monkeypatch.setattr(disk_module, "STALL", math.inf)
    await put(other, Source.STDOUT, b"line\n")
    monkeypatch.setattr(disk_module, "STALL", -1.0)
    monkeypatch.setattr(disk_module, "_waits", itertools.count().__next__)
    await put(one, Source.STDOUT, b"waited for\n")
    assert not threads
    await put(other, Source.STDOUT, b"line\n")
    assert threads == ["take_on"]
    for log in (one, other):
        await log.leave()


@pytest.mark.parametrize("limit", [NO_LIMIT, len(b"first")])
async def test_what_fills_a_pipe_meanwhile_does_not_hold_up_the_loop(
    tmp_path: Path, pipe: tuple[int, int], threads: list[str], monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """No more is moved, or dropped, there than ever, and for nothing is slept; a thread does the rest."""
    reading, writing = pipe
    log = LogStore(tmp_path).create(JOB, limit=limit)
    await put(log, Source.STDOUT, b"first")
    threads.clear()

    def in_pipe(fd: int) -> int:
        os.write(writing, MUCH)
        return 1

    def sleep(seconds: float) -> None:
        raise AssertionError("the loop sleeps")

    monkeypatch.setattr(log_module, "in_pipe", in_pipe)
    monkeypatch.setattr(writer_module, "sleep", sleep)
    await log.take(Source.STDOUT, reading)
    assert (log.end + log.dropped, threads) == (len(b"first") + SMALL, [])
    monkeypatch.undo()
    await log.take(Source.STDOUT, reading)
    await log.finish()
    assert log.end + log.dropped == len(b"first") + len(MUCH)
    if limit == NO_LIMIT:
        assert (await collect(await log.follow(Start())))[Source.STDOUT] == b"first" + MUCH


async def test_what_is_recorded_in_the_loop_is_kept_for_those_who_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for nobody else: that it is read back costs more than to sum it up."""
    monkeypatch.setattr(disk_module, "STALL", math.inf)  # a busy machine is no slow disk
    log = LogStore(tmp_path).create(JOB)
    await put(log, Source.STDOUT, b"first\n")
    published: list[Record] = []
    log.broadcast.publish = published.append  # type: ignore[method-assign,assignment] # to see what it is given
    await put(log, Source.STDOUT, b"second\n")
    assert not published
    log.broadcast.subscribe()
    await put(log, Source.STDOUT, b"third\n")
    assert [bytes(record.data) for record in published] == [b"third\n"]
    await log.leave()


def test_the_disk_begins_before_it_is_waited_for(
    tmp_path: Path, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With whole pages, each once, and of each segment by itself; on a C library that cannot say so, with nothing."""
    reading, writing = pipe
    told: list[tuple[int, int]] = []

    def tell(fd: int, begin: int, size: int, flags: int) -> None:
        told.append((begin, size))

    monkeypatch.setattr(files_module, "_sync_file_range", tell)
    monkeypatch.setattr(files_module, "EARLY", len(MUCH))
    writer = LogWriter(tmp_path, JOB, limit=2**63, segment_size=len(MUCH) * 3)

    def take(times: int) -> list[tuple[int, int]]:
        told.clear()
        for _ in range(times):
            os.write(writing, MUCH)
            writer.take(Source.STDOUT, reading, 1)
        return told.copy()

    page = 4096
    two, three = len(MUCH) * 2 // page * page, len(MUCH) * 3 // page * page
    assert take(3) == [(0, two), (two, three - two)]
    assert take(2) == [(0, two)]
    for _ in range(len(MUCH) // SMALL + 1):  # in the loop, which waits for no disk
        os.write(writing, bytes(SMALL))
        writer.take(Source.STDOUT, reading, 1)
    assert told == [(0, two)]
    monkeypatch.setattr(files_module, "_sync_file_range", None)
    assert not take(3)
    writer.finish(2)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".index"]
    assert sum(path.stat().st_size for path in files) == len(MUCH) * 8 + (len(MUCH) // SMALL + 1) * SMALL


@pytest.mark.parametrize(("size", "pauses"), [(FAST - 1, 0), (FAST, 1), (ENOUGH - 1, 1), (ENOUGH, 0)])
def test_it_is_waited_for_more_where_that_is_worth_it(
    tmp_path: Path, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, size: int, pauses: int
) -> None:
    """Not for a line, and not where so much is there that the job may be faster than we are."""
    reading, writing = pipe
    paused: list[float] = []
    monkeypatch.setattr(writer_module, "sleep", paused.append)
    writer = LogWriter(tmp_path, JOB, limit=2**63)
    os.write(writing, bytes(size))
    assert writer.take(Source.STDOUT, reading, 1).size == size
    assert len(paused) == pauses
    writer.finish(2)
