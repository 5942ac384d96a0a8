"""The desk at a job's stdin, over real pipes: one at a time, nothing queued, and the end when it is asked for."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from jobd.launcher.stdin import FdStdin
from jobd.worker.errors import (
    AlreadyAttachedError,
    AttachmentTakenOverError,
    InvalidSpecError,
    NoTerminalError,
    StdinClosedError,
)
from jobd.worker.job import MAX_SPEC, JobSpec
from jobd.worker.stdin import Attacher, Attachment, StdinDesk, StdinMode, Terminal, WindowSize
from jobd.worker.worker import Worker
from tests.support.jobs import collect, shell

ALICE, BOB = Attacher("alice", "a"), Attacher("bob", "b")


@dataclass
class Pipe:
    """A desk, and the end of its pipe that would be a job's."""

    desk: StdinDesk
    stdin: FdStdin
    reading: int

    def fill(self) -> int:
        """Leave no room; returns how much there was."""
        count = 0
        try:
            while True:
                count += self.stdin.write(memoryview(bytes(65536)))
        except BlockingIOError:
            return count


@pytest.fixture
async def pipe() -> AsyncIterator[Pipe]:
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    stdin = FdStdin(writing, terminal=False, tell_closed=trio.lowlevel.checkpoint)
    yield Pipe(StdinDesk("job", stdin), stdin, reading)
    stdin.let_go()
    os.close(reading)


async def test_what_is_written_is_in_the_pipe_when_that_is_said(pipe: Pipe) -> None:
    """So no end of this process loses it."""
    assert await pipe.desk.attach(ALICE).write(memoryview(b"bytes")) == 5
    assert os.read(pipe.reading, 100) == b"bytes"


async def test_a_pipe_without_room_is_waited_for(pipe: Pipe, autojump_clock: trio.testing.MockClock) -> None:
    """And then as much is written as there is room for."""
    attachment, full = pipe.desk.attach(ALICE), pipe.fill()
    with trio.move_on_after(1000) as waited:
        await attachment.write(memoryview(b"x"))
    assert waited.cancelled_caught
    os.read(pipe.reading, full)
    assert await attachment.write(memoryview(bytes(full + 1))) == full


async def test_the_second_is_refused_and_told_who_the_first_is(pipe: Pipe) -> None:
    """Until the first has left."""
    first = pipe.desk.attach(ALICE)
    with pytest.raises(AlreadyAttachedError, match="alice"):
        pipe.desk.attach(BOB)
    first.detach()
    second = pipe.desk.attach(BOB)
    first.detach()  # again: it is not the second's
    with pytest.raises(AlreadyAttachedError, match="bob"):
        pipe.desk.attach(ALICE)
    assert await second.write(memoryview(b"x")) == 1


@pytest.mark.parametrize(
    ("who", "let_in"),
    [(ALICE, True), (Attacher("alice", "other"), False), (Attacher("bob", "a"), False), (Attacher("alice"), False)],
)
async def test_the_same_attachment_goes_on(pipe: Pipe, who: Attacher, let_in: bool) -> None:
    """It is the principal's, and has a name; an unnamed one is never the same."""
    first = pipe.desk.attach(ALICE)
    if let_in:
        pipe.desk.attach(who)
        assert first.lost.is_set()
    else:
        with pytest.raises(AlreadyAttachedError):
            pipe.desk.attach(who)
        first.detach()
        unnamed = pipe.desk.attach(Attacher("alice"))
        with pytest.raises(AlreadyAttachedError):
            pipe.desk.attach(Attacher("alice"))
        unnamed.detach()


async def test_whoever_is_taken_over_from_writes_no_more(pipe: Pipe) -> None:
    """Not even what waited for room: the bytes of two are not mixed."""
    first, full = pipe.desk.attach(ALICE), pipe.fill()
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            with pytest.raises(AttachmentTakenOverError, match="bob"):
                await first.write(memoryview(b"1"))

        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        second = pipe.desk.attach(BOB, take_over=True)
        os.read(pipe.reading, full)
    await second.write(memoryview(b"2"))
    assert os.read(pipe.reading, 10) == b"2"
    with pytest.raises(AttachmentTakenOverError):
        await first.close()


async def test_closed_is_closed(pipe: Pipe) -> None:
    """The reader sees the end; again is no error; bytes are one, for whoever comes."""
    attachment = pipe.desk.attach(ALICE)
    await attachment.write(memoryview(b"x"))
    await attachment.close()
    await attachment.close()
    assert (os.read(pipe.reading, 10), os.read(pipe.reading, 10)) == (b"x", b"")
    with pytest.raises(StdinClosedError):
        await attachment.write(memoryview(b"y"))
    attachment.detach()
    again = pipe.desk.attach(BOB)
    assert again.closed
    with pytest.raises(StdinClosedError):
        await again.write(memoryview(b"y"))


@asynccontextmanager
async def waiting_for_room(pipe: Pipe, attachment: Attachment) -> AsyncIterator[None]:
    """Somebody writes while the pipe is full, in the block; after it, all of that counts as written."""
    pipe.fill()
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            assert await attachment.write(memoryview(b"xyz")) == 3

        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        yield


async def test_a_reader_that_has_gone_gets_nothing_and_keeps_nobody(pipe: Pipe) -> None:
    """What is written is dropped, also what waits for room when it goes."""
    attachment = pipe.desk.attach(ALICE)
    async with waiting_for_room(pipe, attachment):
        os.close(pipe.reading)
    pipe.reading = os.open(os.devnull, os.O_RDONLY)
    assert attachment.refused
    await attachment.close()


async def test_the_end_of_the_job_is_not_the_end_of_what_was_asked(pipe: Pipe) -> None:
    """What is written then is dropped, and no error; also what waits for room. Nobody has closed it."""
    attachment = pipe.desk.attach(ALICE)
    async with waiting_for_room(pipe, attachment):
        pipe.stdin.let_go()
    assert (attachment.refused, attachment.closed) == (True, False)
    assert await attachment.write(memoryview(b"xyz")) == 3


async def test_a_pipe_has_no_size(pipe: Pipe) -> None:
    """It is no terminal."""
    with pytest.raises(NoTerminalError):
        pipe.desk.attach(ALICE).resize(WindowSize(24, 80))


async def test_a_worker_without_a_launcher_has_pipes_too(worker: Worker) -> None:
    """The worker library alone: a job reads what is written, and what it is given."""
    job = await worker.start(shell("cat", stdin=StdinMode.PIPE))
    attachment = await worker.attach(job.id, ALICE)
    await attachment.write(memoryview(b"written"))
    await attachment.close()
    assert b"written" in (await collect(await worker.stream(job.id))).values()
    given = await worker.start(shell("cat", stdin_data=b"given"))
    assert b"given" in (await collect(await worker.stream(given.id))).values()


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"terminal": Terminal(0, 0)}, ["spec.terminal.rows", "spec.terminal.columns"]),
        ({"terminal": Terminal(-1, 4097)}, ["spec.terminal.rows", "spec.terminal.columns"]),
        ({"terminal": Terminal(1, 4096, "é")}, ["spec.terminal.term"]),
        ({"terminal": Terminal(1, 1, "x" * 65)}, ["spec.terminal.term"]),
        ({"terminal": Terminal(1, 1), "stdin_data": b"x"}, ["spec.stdin_data"]),
        ({"stdin": StdinMode.PIPE, "stdin_data": b"x"}, ["spec.stdin_data"]),
        ({"stdin_data": bytes(MAX_SPEC)}, ["spec"]),
        ({"stdin": StdinMode.PIPE, "retry_lost": 1}, ["spec.retry_lost"]),
        ({"terminal": Terminal(1, 1), "retry_lost": 1}, ["spec.retry_lost"]),
    ],
)
def test_what_cannot_be_is_refused_by_name(fields: dict[str, object], names: list[str]) -> None:
    """Every field of it."""
    with pytest.raises(InvalidSpecError) as refused:
        JobSpec(("true",), **fields).check()  # type: ignore[arg-type] # they are JobSpec's
    assert [violation.field for violation in refused.value.violations] == names
