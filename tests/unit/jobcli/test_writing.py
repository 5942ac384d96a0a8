"""Bytes to a descriptor: all of them, in order, and nobody has to wait for its reader but who writes."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest
import trio
import trio.testing

from jobcli.writing import ATOMIC, WIDE, write, write_at_once

MUCH = bytes(range(256)) * 16 * 1024  # 4 MiB: more than any pipe holds
PARTS = [MUCH[:1000], memoryview(MUCH)[1000:1_000_000], b"", bytearray(MUCH[1_000_000:])]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    yield reading, writing
    for fd in (reading, writing):
        try:
            os.close(fd)
        except OSError as exc:  # the test has closed it
            assert exc.errno == errno.EBADF  # noqa: PT017 # nothing is tested here


def read_all(fd: int, size: int) -> bytes:
    """So many bytes, as a reader that is in no hurry gets them."""
    found = b""
    while len(found) < size:
        found += os.read(fd, 4096)
    return found


async def test_all_parts_come_whole_and_in_order(pipe: tuple[int, int]) -> None:
    """Also when there are many more of them than a pipe has room for; which stays one that waits, for others."""
    reading, writing = pipe
    found = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, writing, PARTS)
        found = await trio.to_thread.run_sync(read_all, reading, len(MUCH))
    assert found == MUCH
    assert os.get_blocking(writing)


async def test_a_full_pipe_holds_up_nobody_else(pipe: tuple[int, int]) -> None:
    """And is made larger, since much comes. Giving up is possible."""
    _, writing = pipe
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, writing, PARTS)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ) == WIDE


async def test_what_two_write_is_not_mixed(pipe: tuple[int, int]) -> None:
    """The second begins when the first has ended, however long its reader takes."""
    reading, writing = pipe
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, writing, [b"a" * len(MUCH)])
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(write, writing, [b"b" * 5000])
        found = await trio.to_thread.run_sync(read_all, reading, len(MUCH) + 5000)
    assert found == b"a" * len(MUCH) + b"b" * 5000


async def test_a_reader_that_has_gone_is_told_of(pipe: tuple[int, int]) -> None:
    """As soon as the next byte is written, and to whoever waits for room."""
    reading, writing = pipe

    async def go() -> None:
        await trio.testing.wait_all_tasks_blocked()
        os.close(reading)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go)
        with pytest.raises(BrokenPipeError):
            await write(writing, PARTS)
    with pytest.raises(BrokenPipeError):
        await write(writing, [b"x"])


async def test_a_system_that_cannot_write_without_waiting_writes_in_a_thread(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux before 6.4 knows no RWF_NOWAIT for pipes."""

    def refuse(fd: int, parts: Sequence[bytes], offset: int, flags: int) -> NoReturn:
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(os, "pwritev", refuse)
    reading, writing = pipe
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, writing, PARTS)
        assert await trio.to_thread.run_sync(read_all, reading, len(MUCH)) == MUCH


@pytest.mark.parametrize("size", [ATOMIC, len(MUCH)])
async def test_a_file_takes_all_of_it(size: int) -> None:
    """It is no pipe: little is written at once, much in a thread."""
    with tempfile.TemporaryFile() as file:
        await write(file.fileno(), [MUCH[:size]])
        file.seek(0)
        assert file.read() == MUCH[:size]


def test_a_few_bytes_go_into_a_pipe_at_once(pipe: tuple[int, int]) -> None:
    """As long as there is room for all of them; what has no room is not begun with."""
    reading, writing = pipe
    sent = 0
    while write_at_once(writing, [b"a" * 3000, memoryview(b"b" * 1000)]):
        sent += 1
    assert sent >= 16
    assert read_all(reading, sent * 4000) == (b"a" * 3000 + b"b" * 1000) * sent
    os.set_blocking(reading, False)
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)


async def test_nothing_goes_out_at_once_in_front_of_what_waits(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, writing, [MUCH])
        await trio.testing.wait_all_tasks_blocked()
        assert not write_at_once(writing, [b"me first"])
        assert await trio.to_thread.run_sync(read_all, reading, len(MUCH)) == MUCH
    assert write_at_once(writing, [b"now"])
    assert os.read(reading, 10) == b"now"


def test_what_cannot_go_out_at_once_is_not_written(pipe: tuple[int, int], tmp_path: Path) -> None:
    """More than a pipe takes in one piece; into a pipe that nobody reads; into what is no pipe."""
    reading, writing = pipe
    assert not write_at_once(writing, [b"x" * (ATOMIC + 1)])
    os.close(reading)
    assert not write_at_once(writing, [b"x"])
    with (tmp_path / "file").open("wb") as file:
        assert not write_at_once(file.fileno(), [b"x"])
        assert (tmp_path / "file").read_bytes() == b""
