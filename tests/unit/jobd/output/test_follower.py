"""Followers of the same job that come to the same places: one of them reads, for all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from structlog.typing import EventDict

from jobd.output import blocks as blocks_module
from jobd.output import reader as reader_module
from jobd.output.blocks import MUCH, SOME
from jobd.output.follower import LogFollower
from jobd.output.log import Log, LogStore
from jobd.output.reader import BATCH, LogReader
from jobd.worker.errors import OutputDamagedError
from jobd.worker.ports import Gap, Record, Source, Start
from tests.support.jobs import collect, put

JOB = "0123abcd-0000-4000-8000-000000000000"
DATA = bytes(range(251)) * (BATCH // 251)
PIECE = 32 * 1024


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Log]:
    """What a job wrote: about a batch."""
    made = LogStore(tmp_path).create(JOB)
    made._clock = lambda: 1  # one run, however long it takes to write it
    for start in range(0, len(DATA), PIECE):
        await put(made, Source.STDOUT, DATA[start : start + PIECE])
    yield made
    await made.leave()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How much was read of the data each time."""
    found: list[int] = []
    real = reader_module.read_file

    def read_file(*args: Any, **how: Any) -> Any:
        data = real(*args, **how)
        found.append(len(data))
        return data

    monkeypatch.setattr(reader_module, "read_file", read_file)
    return found


async def receive(follower: LogFollower, limit: int) -> bytes:
    """What comes next, which is no gap."""
    records = [each for each in await follower.receive(limit) if isinstance(each, Record)]
    return b"".join(record.data for record in records)


@pytest.mark.parametrize("limit", [SOME, MUCH - 1, MUCH, BATCH])
async def test_one_of_those_who_come_to_a_place_at_once_reads(log: Log, read: list[int], limit: int) -> None:
    """Whatever they may hold: all that a block has is read, once, and each is given no more than it may have."""
    followers = [await log.follow(Start()) for _ in range(5)]
    found: list[bytes] = []

    async def one(follower: LogFollower) -> None:
        found.append(await receive(follower, limit))
        follower.close()

    async with trio.open_nursery() as nursery:
        for follower in followers:
            nursery.start_soon(one, follower)
    assert len(read) == 1
    assert read[0] >= BATCH // 2
    assert found == [DATA[: len(found[0])]] * 5
    assert 0 < len(found[0]) <= limit


async def test_who_may_hold_little_keeps_nothing_else_alive(log: Log, read: list[int]) -> None:
    """It is given a copy of its part of what was read for all."""
    followers = [await log.follow(Start()) for _ in range(2)]
    for follower in followers:
        for number in range(3):
            [record] = [each for each in await follower.receive(SOME) if isinstance(each, Record)]
            assert isinstance(record.data, bytes)
            assert record.data == DATA[number * SOME : (number + 1) * SOME]
    assert len(read) == 1
    for follower in followers:
        follower.close()


async def test_when_the_one_who_reads_fails_another_does(
    log: Log, monkeypatch: pytest.MonkeyPatch, errors_expected: list[EventDict]
) -> None:
    followers = [await log.follow(Start()) for _ in range(3)]
    real, calls = LogReader.read, []

    def read(reader: LogReader, *args: Any) -> Any:
        calls.append(reader)
        if len(calls) == 1:
            raise OSError("its files cannot be opened")
        return real(reader, *args)

    monkeypatch.setattr(LogReader, "read", read)
    failed = []

    async def one(follower: LogFollower) -> None:
        try:
            assert DATA.startswith(await receive(follower, BATCH))
        except OutputDamagedError:
            failed.append(follower)
        follower.close()

    async with trio.open_nursery() as nursery:
        for follower in followers:
            nursery.start_soon(one, follower)
    assert [follower._reader for follower in failed] == calls[:1]


async def test_where_something_is_missing_nobody_is_given_more_than_it_asks_for(tmp_path: Path) -> None:
    """Each reads for itself there, and is told once."""
    made = LogStore(tmp_path).create(JOB)
    await put(made, Source.STDOUT, DATA[: SOME * 2])
    made._budget.limit = 1
    await put(made, Source.STDOUT, b"dropped")
    made._budget.limit = 2**63
    await put(made, Source.STDOUT, DATA[SOME * 2 : SOME * 4])
    followers = [await made.follow(Start()) for _ in range(3)]
    for follower in followers:
        found: list[Record | Gap] = []
        while follower.offset < made.end:
            some = await follower.receive(SOME)
            assert sum(len(each.data) for each in some if isinstance(each, Record)) <= SOME
            found += some
        assert b"".join(each.data for each in found if isinstance(each, Record)) == DATA[: SOME * 4]
        assert [each for each in found if isinstance(each, Gap)] == [Gap(SOME * 2, len(b"dropped"))]
        follower.close()
    await made.leave()


async def test_who_finds_its_block_gone_reads_no_more_than_it_asks_for(
    log: Log, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as there are too many at places of their own, nothing is read that nobody takes."""
    monkeypatch.setattr(blocks_module, "KEPT", 1)
    log.blocks = blocks_module.Blocks()
    for _ in range(2):
        await put(log, Source.STDOUT, DATA)
    places = [0, BATCH, 2 * BATCH]
    followers = [await log.follow(Start(offset=place)) for place in places]
    for follower, place in zip(followers, places, strict=True):
        assert await receive(follower, SOME) == (DATA * 3)[place : place + SOME]
    assert min(read) > SOME
    read.clear()
    for follower, place in zip(followers, places[:2], strict=False):
        assert await receive(follower, SOME) == (DATA * 3)[place + SOME : place + 2 * SOME]
    assert read == [SOME, SOME]
    assert [block.offset for block in log.blocks._blocks] == places[2:]  # nor is it kept in place of what is larger
    for follower in followers:
        follower.close()


async def test_what_is_taken_at_once_counts_as_given(tmp_path: Path) -> None:
    """What comes behind it goes on from there, live and from the disk."""
    made = LogStore(tmp_path).create(JOB)
    follower = await made.follow(Start())
    taken: list[bytes] = []

    def taker(record: Record) -> bool:
        if record.data == b"no":
            return False
        taken.append(bytes(record.data))
        return True

    found: list[Record | Gap] = []

    async def wait() -> None:
        found.extend(await follower.receive(BATCH, taker))

    for _ in range(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await put(made, Source.STDOUT, b"one")
            await put(made, Source.STDERR, b"two")
            assert follower.offset == made.end == made.reached
            await put(made, Source.STDOUT, b"no")
    assert taken == [b"one", b"two"] * 2
    assert [(each.offset, each.end) for each in found] == [(6, 8), (14, 16)]
    with trio.move_on_after(0):
        await follower.receive(BATCH, taker)
    await put(made, Source.STDOUT, DATA)  # too much to be given live: it is read from the disk
    assert await receive(follower, BATCH) == DATA[: follower.offset - 16]
    follower.close()
    await made.leave()


@pytest.mark.parametrize(("size", "count"), [(1000, 0), (len(DATA), 1)])
async def test_the_memory_of_much_that_was_read_is_given_back_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, count: int
) -> None:
    """By who followed alone, too."""
    given: list[int] = []
    monkeypatch.setattr(blocks_module, "give_back_what_is_free", lambda: given.append(1))
    log = LogStore(tmp_path).create(JOB)
    await put(log, Source.STDOUT, DATA[:size])
    await log.finish()
    assert len((await collect(await log.follow(Start())))[Source.STDOUT]) == size
    assert given == [1] * count
