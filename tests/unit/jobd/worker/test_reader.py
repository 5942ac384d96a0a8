"""How a stream is read to its end, when its job has ended and others may hold it open."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import trio

from jobd.launcher.pipe import FdPipe
from jobd.worker.ports import Follower, Source, Start
from jobd.worker.reader import Reader

PIECE = 10


class CountingLog:
    """Takes a piece at a time; a writer, if there is one, has written as much again before the next is asked for."""

    def __init__(self) -> None:
        self.end = self.dropped = 0
        self.writer: int | None = None

    def take_at_once(self, source: Source, pipe: int, size: int) -> bool | None:
        return None

    async def take(self, source: Source, pipe: int) -> bool:
        await trio.lowlevel.checkpoint()
        data = os.read(pipe, PIECE)
        self.end += len(data)
        assert self.end <= 10 * PIECE, "this would never end"
        if self.writer is not None:
            os.write(self.writer, data)
        return bool(data)

    async def finish(self) -> None: ...

    async def resume(self) -> None: ...

    async def leave(self) -> None: ...

    async def follow(self, start: Start) -> Follower:
        raise NotImplementedError


@pytest.fixture
def pipe() -> Iterator[tuple[FdPipe, int]]:
    """A pipe with five pieces in it, and its writing end."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.write(writing, bytes(5 * PIECE))
    yield FdPipe(reading), writing
    os.close(reading)


async def halted(log: CountingLog, pipe: FdPipe) -> Reader:
    """A reader that waits for nothing more, before it has read anything."""
    reader = Reader(log, Source.STDOUT, pipe)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.halt)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(reader.run)
    return reader


async def test_a_writer_that_is_as_fast_as_we_are_is_not_waited_for(pipe: tuple[FdPipe, int]) -> None:
    """What stood in the pipe is taken, and no more; and it is said that the stream had not ended."""
    log = CountingLog()
    log.writer = pipe[1]
    reader = await halted(log, pipe[0])
    assert not await reader.finish()
    assert log.end == 5 * PIECE
    os.close(pipe[1])


async def test_a_stream_that_has_ended_is_taken_whole(pipe: tuple[FdPipe, int]) -> None:
    """To its last byte, and to its end."""
    os.close(pipe[1])
    log = CountingLog()
    reader = await halted(log, pipe[0])
    assert await reader.finish()
    assert log.end == 5 * PIECE


async def test_a_quiet_stream_that_is_held_open_is_not_waited_for(pipe: tuple[FdPipe, int]) -> None:
    """What is in it is taken."""
    log = CountingLog()
    reader = await halted(log, pipe[0])
    assert not await reader.finish()
    assert log.end == 5 * PIECE
    os.close(pipe[1])
