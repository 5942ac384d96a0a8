"""What followers of a job read together: once from the disk, summed up once, and no more of it held than is said."""

from __future__ import annotations

import fcntl
import gc
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.typing import EventDict

from jobd.output import blocks as blocks_module
from jobd.output.blocks import KEPT, MUCH, SELDOM, SOME, Attempt, Blocks
from jobd.output.budget import Budget
from jobd.output.log import NEAR, Log, LogStore
from jobd.output.reader import BATCH, LogReader, Reached
from jobd.output.writer import RUN_TIME, TAKE, LogWriter
from jobd.worker.errors import JobNotFoundError, OutputDamagedError
from jobd.worker.ports import Record, Source, Start
from tests.support.jobs import collect, put

JOB = "0123abcd-0000-4000-8000-000000000000"
DATA = bytes(range(251)) * 300
PLACE = Reached()


def block_of(offset: int, size: int) -> list[Record]:
    half = size // 2
    return [
        Record(offset, Source.STDOUT, 1, DATA[:half]),
        Record(offset + half, Source.STDERR, 2, DATA[half:size]),
    ]


def damage(root: Path) -> None:
    """Whoever reads the disk from now on finds it out."""
    [data] = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".index"]
    data.write_bytes(bytes(len(data.read_bytes())))


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Log]:
    """What a job wrote, in several runs of both streams."""
    made = LogStore(tmp_path).create(JOB)
    for number in range(10):
        await put(made, Source.STDOUT if number % 3 else Source.STDERR, DATA[number * 5000 : (number + 1) * 5000])
    yield made
    await made.leave()


@pytest.mark.parametrize("offset", [0, 1, 4_999, 5_000, 33_333])
async def test_what_one_has_read_another_is_given(log: Log, tmp_path: Path, offset: int) -> None:
    """From wherever it comes to, and without the disk: that has gone bad meanwhile."""
    first, second = await log.follow(Start()), await log.follow(Start(offset=offset))
    assert not first.at_hand(BATCH)
    whole = [record for record in await first.receive(BATCH) if isinstance(record, Record)]
    damage(tmp_path)
    assert second.at_hand(BATCH)
    assert not second.at_hand(SOME - 1)
    found = [record for record in await second.receive(BATCH) if isinstance(record, Record)]
    assert (found[0].offset, found[-1].end, second.offset) == (offset, log.end, log.end)
    assert b"".join(record.data for record in found) == b"".join(record.data for record in whole)[offset:]
    assert {(r.source, r.time) for r in found} <= {(r.source, r.time) for r in whole}
    first.close()
    second.close()


async def test_who_may_hold_little_is_given_nothing_of_a_block(
    log: Log, tmp_path: Path, errors_expected: list[EventDict]
) -> None:
    """A few bytes would keep all of it alive."""
    first, second = await log.follow(Start()), await log.follow(Start())
    await first.receive(BATCH)
    damage(tmp_path)
    with pytest.raises(OutputDamagedError):
        await second.receive(5_000)
    first.close()
    second.close()


@pytest.fixture
def wide() -> Iterator[tuple[int, int]]:
    """A pipe with room for much."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reading, False)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, TAKE)
    yield reading, writing
    os.close(reading)
    os.close(writing)


MUCH_AT_ONCE = bytes(range(251)) * (TAKE // 251)


async def record(log: Log, wide: tuple[int, int], data: bytes = MUCH_AT_ONCE) -> None:
    os.write(wide[1], data)
    assert await log.take(Source.STDOUT, wide[0])


@pytest.mark.parametrize("limit", [MUCH, BATCH])
async def test_what_was_recorded_just_now_is_given_without_the_disk(
    tmp_path: Path, wide: tuple[int, int], limit: int
) -> None:
    """To the only follower, too, and also in parts. Behind that it reads on from the disk, and finds damage there."""
    log = LogStore(tmp_path).create(JOB)
    follower = await log.follow(Start())
    await record(log, wide, MUCH_AT_ONCE[:100])
    assert [each.end for each in await follower.receive(limit)] == [100]
    await record(log, wide)
    await record(log, wide)
    here = log.end
    damage(tmp_path)
    found = []
    while follower.offset < here:
        found += [each for each in await follower.receive(limit) if isinstance(each, Record)]
    assert b"".join(each.data for each in found) == MUCH_AT_ONCE * 2
    assert max(len(each.data) for each in found) <= limit
    follower.close()
    assert log.blocks.find(log.attempt, 100) is None
    await log.leave()


async def test_who_goes_on_behind_what_was_recorded_just_now_checks_what_it_reads(
    tmp_path: Path, wide: tuple[int, int], errors_expected: list[EventDict]
) -> None:
    """With the sum of what it was given without reading it."""
    log = LogStore(tmp_path).create(JOB)
    follower = await log.follow(Start())
    await record(log, wide, MUCH_AT_ONCE[:100])
    await follower.receive(BATCH)
    await record(log, wide)
    await follower.receive(BATCH)
    await record(log, wide, b"a little")
    await log.finish()
    opened = follower._reader.opened
    [data] = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".index"]
    with data.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"?")
    with pytest.raises(OutputDamagedError):
        await follower.receive(BATCH)
    assert follower._reader.opened == opened
    follower.close()


async def test_what_is_recorded_far_from_every_follower_is_not_kept(tmp_path: Path, wide: tuple[int, int]) -> None:
    """One that takes nothing costs no memory."""
    log = LogStore(tmp_path).create(JOB)
    follower = await log.follow(Start())
    count = NEAR // len(MUCH_AT_ONCE) + 3
    for _ in range(count):
        await record(log, wide)
    assert log.blocks.find(log.attempt, log.end - 1) is None
    await log.finish()
    assert (await collect(follower))[Source.STDOUT] == MUCH_AT_ONCE * count


async def test_what_is_recorded_when_all_have_left_is_not_kept(
    tmp_path: Path, wide: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would ever let go of it."""
    log = LogStore(tmp_path).create(JOB)
    follower = await log.follow(Start())
    real = log._writer.take_on

    def take_on(*args: Any) -> Any:
        taken = real(*args)
        follower.close()
        return taken

    monkeypatch.setattr(log._writer, "take_on", take_on)
    await record(log, wide)
    assert log.end == len(MUCH_AT_ONCE)
    assert not log.blocks._blocks
    await log.leave()


async def test_the_memory_of_blocks_is_given_back_with_the_last_of_them(
    tmp_path: Path, wide: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who leave without having had any cost nothing, nor do those who do so soon after others: it may take some
    milliseconds."""
    given: list[int] = []
    now = [1000.0]
    monkeypatch.setattr(blocks_module, "monotonic", lambda: now[0])
    monkeypatch.setattr(blocks_module, "give_back_what_is_free", lambda: given.append(1))
    log = LogStore(tmp_path).create(JOB)
    (await log.follow(Start())).close()
    assert not given
    first, second = await log.follow(Start()), await log.follow(Start())
    await record(log, wide)
    first.close()
    assert not given
    second.close()
    assert given == [1]
    for passed, count in ((SELDOM / 2, 1), (SELDOM, 2)):
        now[0] += passed
        another = await log.follow(Start(offset=log.end))
        log.reached = log.end
        await record(log, wide)
        another.close()
        assert len(given) == count
    await log.leave()


async def test_who_is_given_what_was_recorded_is_told_of_what_is_missing_before_it(
    tmp_path: Path, wide: tuple[int, int]
) -> None:
    log = LogStore(tmp_path, budget=Budget(TAKE * 10)).create(JOB)
    follower = await log.follow(Start())
    await record(log, wide)
    log._budget.limit = 1
    await record(log, wide, b"dropped")
    log._budget.limit = TAKE * 10
    await record(log, wide)
    found = [*await follower.receive(), *await follower.receive()]
    assert [(type(each).__name__, each.offset, each.end) for each in found] == [
        ("Record", 0, len(MUCH_AT_ONCE)),
        ("Gap", len(MUCH_AT_ONCE), len(MUCH_AT_ONCE)),
        ("Record", len(MUCH_AT_ONCE), 2 * len(MUCH_AT_ONCE)),
    ]
    follower.close()
    await log.leave()


def test_a_writer_knows_where_a_reader_would_be(tmp_path: Path, wide: tuple[int, int]) -> None:
    """After each piece, whatever runs and segments it makes of them."""
    reading, writing = wide
    writer, reader = LogWriter(tmp_path, JOB, limit=2**63, segment_size=TAKE), LogReader(tmp_path, JOB)
    time = 0
    for number in range(40):
        os.write(writing, MUCH_AT_ONCE[: 7 + number * 1000])
        time += RUN_TIME if number % 3 == 0 else 1
        source = Source.STDOUT if number % 5 else Source.STDERR
        taken = writer.take(source, reading, time)
        position = writer.end - taken.size
        while position < writer.end:
            position = reader.read(position, writer.end)[-1].end
        assert taken.place == reader.place
    writer.leave()
    reader.close()


async def test_who_follows_alone_keeps_nothing_for_others(
    log: Log, tmp_path: Path, errors_expected: list[EventDict]
) -> None:
    """Nor does what was kept stay when all have left."""
    together = [await log.follow(Start()) for _ in range(2)]
    for follower in together:
        await follower.receive(BATCH)
        follower.close()
    alone = await log.follow(Start())
    assert log.blocks.find(log.attempt, 0) is None
    await alone.receive(BATCH)
    assert log.blocks.find(log.attempt, 0) is None
    damage(tmp_path)
    with pytest.raises(OutputDamagedError):
        await collect(await log.follow(Start()))
    alone.close()


async def test_who_goes_on_behind_a_block_reads_on_from_there(log: Log) -> None:
    """With the sum of the run that it stands in: what comes is checked as if it had read all of it."""
    followers = [await log.follow(Start()) for _ in range(3)]
    for follower in followers:
        await follower.receive(BATCH)
    for number in range(10, 15):
        await put(log, Source.STDOUT, DATA[number * 5000 : (number + 1) * 5000])
    await log.finish()
    rest = [await collect(follower) for follower in followers]
    assert rest == [{Source.STDOUT: DATA[50_000:75_000], Source.STDERR: b""}] * 3


async def test_where_bytes_are_missing_each_reads_for_itself(tmp_path: Path) -> None:
    """Each is told of the gap, once."""
    log = LogStore(tmp_path).create(JOB, limit=4)
    await put(log, Source.STDOUT, b"kept")
    await put(log, Source.STDOUT, b"dropped")
    await log.finish()
    followers = [await log.follow(Start()) for _ in range(2)]
    for follower in followers:
        found = [*await follower.receive(), *await follower.receive()]
        assert [(type(each).__name__, each.offset) for each in found] == [("Record", 0), ("Gap", 4)]
        follower.close()


async def test_a_run_that_ends_while_it_is_followed_stays_the_same(tmp_path: Path) -> None:
    """What its followers have read is given to those that come after its end, too."""
    store = LogStore(tmp_path)
    log = store.create(JOB)
    await put(log, Source.STDOUT, DATA)
    first = await log.follow(Start())
    await log.finish()
    second = await store.get(JOB, log.end).follow(Start())
    await first.receive(BATCH)
    damage(tmp_path)
    found = [record for record in await second.receive(BATCH) if isinstance(record, Record)]
    assert b"".join(record.data for record in found) == DATA[: second.offset]
    first.close()
    second.close()


async def test_a_job_that_is_run_again_has_other_bytes(tmp_path: Path) -> None:
    """Whoever still follows the run that was lost, from its deleted files, is given nothing of the new one, nor the
    other way round."""
    store, followers = LogStore(tmp_path), []
    for byte in (b"1", b"2"):
        log = store.create(JOB)
        await put(log, Source.STDOUT, byte * len(DATA))
        await log.finish()
        both = [await store.get(JOB, log.end).follow(Start()) for _ in range(2)]
        for follower in both:
            await follower.receive(10)  # its files are open now
        await store.delete(JOB)
        followers.append(both)
    (lost, lost_too), (new, new_too) = followers
    for follower, byte in ((lost, b"1"), (new, b"2"), (lost_too, b"1"), (new_too, b"2")):
        records = [record for record in await follower.receive(BATCH) if isinstance(record, Record)]
        assert (records[0].offset, set(b"".join(record.data for record in records))) == (10, {ord(byte)})
        follower.close()


@pytest.mark.parametrize("place", [Start(), Start(tail_lines=1), Start(tail_bytes=5)])
@pytest.mark.parametrize("limit", [BATCH, 10])
async def test_the_files_of_another_run_are_not_read(tmp_path: Path, place: Start, limit: int) -> None:
    """Who has opened none when the run was lost, and comes to read when the next one has written: it is gone."""
    store = LogStore(tmp_path)
    log = store.create(JOB)
    await put(log, Source.STDOUT, b"the first run\n" * 3)
    await log.finish()
    follower = await store.get(JOB, log.end).follow(place)
    await store.delete(JOB)
    with pytest.raises(JobNotFoundError):
        await follower.receive(limit)
    again = store.create(JOB)
    await put(again, Source.STDOUT, b"and the next one\n" * 3)
    with pytest.raises(JobNotFoundError):
        await follower.receive(limit)
    follower.close()
    await again.finish()
    assert (await collect(await again.follow(Start())))[Source.STDOUT] == b"and the next one\n" * 3


async def test_runs_that_nobody_follows_are_forgotten(tmp_path: Path) -> None:
    """However many jobs there have been."""
    store = LogStore(tmp_path)
    for number in range(3):
        job_id = f"{JOB[:-1]}{number}"
        log = store.create(job_id)
        await put(log, Source.STDOUT, DATA)
        await log.finish()
        (await store.get(job_id, log.end).follow(Start())).close()
    del log
    gc.collect()
    assert not store._attempts


def test_no_more_are_kept_than_so_many() -> None:
    """Of all jobs together; the last ones stay."""
    blocks, run = Blocks(), Attempt()
    for _ in range(2):
        blocks.enter(run)
    for number in range(KEPT + 3):
        blocks.keep(run, block_of(number * 100, 100), PLACE)
    assert [number for number in range(KEPT + 3) if blocks.find(run, number * 100)] == list(range(3, KEPT + 3))
    assert blocks.find(Attempt(), 500) is None
    for _ in range(2):
        blocks.leave(run)
    assert blocks.find(run, 500) is None


@pytest.mark.parametrize("offset", [1000, 1001, 1049, 1050, 1051, 1099])
def test_a_block_is_cut_where_it_is_asked_for(offset: int) -> None:
    """Byte for byte, each of its stream and with its time."""
    blocks, run = Blocks(), Attempt()
    for _ in range(2):
        blocks.enter(run)
    blocks.keep(run, block_of(1000, 100), PLACE)
    block = blocks.find(run, offset)
    assert block is not None
    found = block.between(offset, block.end)
    assert b"".join(record.data for record in found) == DATA[offset - 1000 : 100]
    assert found[0].offset == offset
    for record in found:
        assert (record.source, record.time) == ((Source.STDOUT, 1) if record.offset < 1050 else (Source.STDERR, 2))
    assert blocks.find(run, 999) is blocks.find(run, 1100) is None
