"""Bytes to a descriptor, without ever holding up the connection, however slow its reader is."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import trio

from api.rpc.codec import Buffer

STDOUT: Final = 1
STDERR: Final = 2
ATOMIC: Final = 4096
"""PIPE_BUF: what polls writable takes this much without blocking (pipe(7))."""
WIDE: Final = 1024 * 1024
"""Bytes for which a pipe is given room that was found full: the most that a user may have without asking (pipe(7))."""
_CANNOT: Final = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ESPIPE}
"""What a system says that cannot write to a pipe without waiting (Linux before 6.4)."""

_turns: Final[defaultdict[int, trio.Lock]] = defaultdict(trio.Lock)
"""By descriptor: what others write comes behind what somebody has begun to."""


async def write(fd: int, parts: Sequence[Buffer]) -> None:
    """Write bytes, all of them. They go out in this turn of the loop as far as there is room for them.

    Raises:
        BrokenPipeError: nobody reads them any more.
    """
    turn = _turns[fd]
    try:
        turn.acquire_nowait()
    except trio.WouldBlock:
        await turn.acquire()
    try:
        await _write(fd, [memoryview(part) for part in parts if part])
    finally:
        turn.release()


def write_at_once(fd: int, parts: Sequence[Buffer]) -> bool:
    """Write a few bytes into a pipe that has room for them, in one piece, now. False: nothing was written."""
    if _turns[fd].locked() or sum(map(len, parts)) > ATOMIC:
        return False
    try:
        return stat.S_ISFIFO(os.fstat(fd).st_mode) and os.pwritev(fd, parts, -1, os.RWF_NOWAIT) > 0
    except OSError:
        return False  # who waits for room meets the same, and knows what to make of it


async def _write(fd: int, left: list[memoryview]) -> None:
    await trio.lowlevel.checkpoint_if_cancelled()
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        await _into_pipe(fd, left)
    if left and sum(map(len, left)) <= ATOMIC and select.select([], [fd], [], 0)[1]:
        os.writev(fd, left)
    elif left:
        await trio.to_thread.run_sync(_write_all, fd, left, abandon_on_cancel=True)


async def _into_pipe(fd: int, left: list[memoryview]) -> None:
    """Write into a pipe; something is left only where the system cannot do this without waiting. (The pipe is not made
    non-blocking: whoever else has it would meet that, too.)"""
    try:
        while left:
            with contextlib.suppress(BlockingIOError):
                _forget(left, os.pwritev(fd, left, -1, os.RWF_NOWAIT))
            if left:
                _widen(fd)
                await trio.lowlevel.wait_writable(fd)
    except OSError as exc:
        if exc.errno not in _CANNOT:
            raise


def _widen(fd: int) -> None:
    """Make a pipe that was found full larger, or each few bytes that are read at its other end would wake us."""
    with contextlib.suppress(OSError):  # the user has its share of pipes: it stays as it is
        if fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) < WIDE:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, WIDE)


def _forget(parts: list[memoryview], count: int) -> None:
    """Take so many bytes off the front."""
    while parts and count >= len(parts[0]):
        count -= len(parts.pop(0))
    if count:
        parts[0] = parts[0][count:]


def _write_all(fd: int, parts: list[memoryview]) -> None:
    while parts:
        _forget(parts, os.writev(fd, parts))
