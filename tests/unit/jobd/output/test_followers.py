"""Followers of a job that is writing, in whatever order it all comes: each is given what was recorded, and told of what
was not. What is a MiB is made 16 KiB here, so that a short run meets all the ways that a byte may take."""

from __future__ import annotations

import errno
import fcntl
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from jobd.output import blocks, broadcast, follower, reader, writer
from jobd.output import log as log_module
from jobd.output.budget import UNLIMITED, Budget
from jobd.output.follower import LogFollower
from jobd.output.log import Log, LogStore
from jobd.worker.ports import Gap, Record, Source, Start
from jobd.worker.reader import in_pipe

JOB = "0123abcd-0000-4000-8000-000000000000"
UNIT = 16 * 1024
SEEDS = range(8)
LIMITS = (1, UNIT // 16 - 1, UNIT // 16, UNIT // 4 - 1, UNIT // 4, UNIT // 2 - 1, UNIT)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (blocks, follower):
        monkeypatch.setattr(module, "MUCH", UNIT // 4)
        monkeypatch.setattr(module, "SOME", UNIT // 16)
    for module in (blocks, follower, reader):
        monkeypatch.setattr(module, "BATCH", UNIT)
    for module in (log_module, reader):
        monkeypatch.setattr(module, "ENOUGH", UNIT // 2)
    monkeypatch.setattr(blocks, "KEPT", 3)
    monkeypatch.setattr(broadcast, "BUFFER_BYTES", UNIT)
    monkeypatch.setattr(log_module, "NEAR", 3 * UNIT)
    monkeypatch.setattr(log_module, "AHEAD", 2 * UNIT)
    monkeypatch.setattr(log_module, "SMALL", UNIT // 64)
    monkeypatch.setattr(writer, "FAST", UNIT // 16)
    monkeypatch.setattr(writer, "RUN_SIZE", UNIT)


@pytest.fixture
def pipes() -> Iterator[dict[Source, tuple[int, int]]]:
    made = {source: os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) for source in Source}
    for _, writing in made.values():
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, UNIT)
    yield made
    for ends in made.values():
        for end in ends:
            os.close(end)


@dataclass
class Model:
    """A job that writes, and what is known of its output from the numbers alone that the writer says."""

    log: Log
    pipes: dict[Source, tuple[int, int]]
    chance: random.Random
    data: bytearray = field(default_factory=bytearray)
    sources: bytearray = field(default_factory=bytearray)
    gaps: list[Gap] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._real = self.log._writer.take
        self._written = {source: bytearray() for source in Source}
        self.log._writer.take = self._take  # type: ignore[method-assign] # to see what it says

    def _take(self, source: Source, *args: Any, **options: Any) -> writer.Taken:
        taken = self._real(source, *args, **options)
        written = self._written[source]
        if taken.gap:
            self.gaps.append(taken.gap)
        self.data += written[: taken.size]
        self.sources += bytes([source]) * taken.size
        del written[: taken.size + taken.dropped]
        return taken

    async def write(self) -> None:
        """Something, and have it taken."""
        source = self.chance.choice(list(Source))
        piece = self.chance.randbytes(self.chance.choice([1, 7, self.chance.randrange(1, UNIT), UNIT, UNIT]))
        reading, writing = self.pipes[source]
        self._written[source] += piece[: os.write(writing, piece)]
        assert await self.log.take(source, reading)

    async def end(self) -> None:
        """Nothing is left in the pipes."""
        for source, (reading, _) in self.pipes.items():
            while in_pipe(reading):
                await self.log.take(source, reading)
        await self.log.finish()


class Watched:
    """A follower, and what it has been given."""

    def __init__(self, model: Model, follower: LogFollower, chance: random.Random) -> None:
        self._model = model
        self._chance = chance
        self._limit = chance.choice([0, 500, UNIT // 16, UNIT // 10, UNIT // 4, UNIT // 3, UNIT, UNIT])
        self.begun = self._position = follower.offset
        self.follower = follower
        self.told: list[Gap] = []

    async def receive(self, *, wait: bool = False) -> bool:
        """What there is now. False: it has come to the end."""
        limit = self._limit or self._chance.choice(LIMITS)
        if not wait and self._position == len(self._model.data):
            with trio.move_on_after(0):  # it listens from then on
                await self.follower.receive(limit)
                raise AssertionError
            return True
        events = await self.follower.receive(limit)
        assert self._note(events) <= limit
        return bool(events)

    async def listen(self) -> None:
        """Wait for what comes, all the time; most of it is taken in the turn in which it is recorded."""

        def taker(record: Record) -> bool:
            if self._chance.random() < 0.3:
                return False
            self._hold(record)
            return True

        while events := await self.follower.receive(self._limit or UNIT, taker):
            self._note(events)

    def _note(self, events: Sequence[Record | Gap]) -> int:
        """They are what comes next; how many bytes."""
        begun = self._position
        for event in events:
            assert event.offset == self._position
            if isinstance(event, Gap):
                self.told.append(event)
            else:
                self._hold(event)
        return self._position - begun

    def _hold(self, record: Record) -> None:
        assert record.offset == self._position
        assert record.data == self._model.data[record.offset : record.end]
        assert set(self._model.sources[record.offset : record.end]) == {record.source}
        self._position = record.end


async def run(root: Path, pipes: dict[Source, tuple[int, int]], seed: int, lose: float) -> tuple[Model, list[Watched]]:
    """A job that writes, with followers that come and go and are not given a turn for a while."""
    chance, time = random.Random(seed), [1]

    def clock() -> int:
        time[0] += chance.choice([1, 1, writer.RUN_TIME])
        return time[0]

    budget = Budget()
    log = LogStore(root, budget=budget).create(JOB)
    log._clock = clock
    log._writer._segment_size = chance.choice([UNIT, 5 * UNIT, 2**40])
    real_move = log._writer._move

    def move(*arguments: Any) -> int:
        if chance.random() < lose / 2:  # after an entry that tells of what was missing before
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_move(*arguments)

    log._writer._move = move  # type: ignore[method-assign] # a disk that becomes full at this very moment
    model = Model(log, pipes, chance)
    watched: list[Watched] = []
    listening: list[Watched] = []
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            if chance.random() < 0.1 or not watched:
                start = chance.choice([0, 0, log.end, chance.randint(0, log.end), max(0, log.end - UNIT)])
                watched.append(Watched(model, await log.follow(Start(offset=start)), chance))
            if chance.random() < 0.1:
                listening.append(Watched(model, await log.follow(Start(offset=chance.choice([0, log.end]))), chance))
                nursery.start_soon(listening[-1].listen)
            budget.limit = 1 if chance.random() < lose else UNLIMITED
            await model.write()
            for each in chance.sample(watched, chance.randint(0, len(watched))):
                for _ in range(chance.choice([1, 1, 5, 30])):
                    await each.receive()
            if chance.random() < 0.02:
                watched.pop(chance.randrange(len(watched))).follower.close()
        await model.end()
        for each in watched:
            while await each.receive(wait=True):
                pass
    for each in watched + listening:
        assert each.follower.offset == len(model.data)
        each.follower.close()
    assert not log.blocks._blocks
    return model, watched + listening


@pytest.mark.parametrize("seed", SEEDS)
async def test_each_is_given_every_byte_once(tmp_path: Path, pipes: dict[Source, tuple[int, int]], seed: int) -> None:
    """From where it began to the end, in order, and each of its stream; and no more at a time than it asks for."""
    await run(tmp_path, pipes, seed, lose=0)


@pytest.mark.parametrize("seed", SEEDS)
async def test_each_is_told_once_of_what_is_missing_and_where(
    tmp_path: Path, pipes: dict[Source, tuple[int, int]], seed: int
) -> None:
    """All that is missing between the place where it began and the last byte."""
    model, watched = await run(tmp_path, pipes, seed, lose=0.2)
    for each in watched:
        inside = range(each.begun + 1, len(model.data))
        assert _missing(each.told, inside) == _missing(model.gaps, inside)


def _missing(gaps: list[Gap], inside: range) -> dict[int, int]:
    """How much, by offset."""
    found: Counter[int] = Counter()
    for gap in gaps:
        if gap.offset in inside:
            found[gap.offset] += gap.dropped
    return dict(found)
