"""From a job's terminal into a pipe, out of which its output is then taken as from any job.

splice(2) moves the bytes inside the kernel: whenever this process is killed, a byte is in the terminal, in the pipe,
or in the log. The launcher holds terminal and pipe open meanwhile; of the pipe, only the reading end, so that its end
comes when we close the writing one.
"""

from __future__ import annotations

import errno
import os
import select
from typing import Final

import trio

PIECE: Final = 64 * 1024
PIECES: Final = 16
"""Moved before others get a turn: a terminal gives 4 KiB at a time, whatever is asked for."""
ATOMIC: Final = 4096
"""PIPE_BUF: a pipe that polls writable takes so much at once (pipe(7))."""
PAUSE: Final = 0.1
"""Seconds between two looks at a terminal that a running job does not have open; there is no event for its return."""


def writing_end(pipe: int) -> int:
    """A new writing end of a pipe, of which we have the reading end.

    Raises:
        OSError: there are no more descriptors.
    """
    return os.open(f"/proc/self/fd/{pipe}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _has_room(pipe: int) -> bool:
    poll = select.poll()
    poll.register(pipe, select.POLLOUT)
    return bool(poll.poll(0))


class Relay:
    """One for each terminal; ``carry`` until its end."""

    def __init__(self, terminal: int, pipe: int) -> None:
        """
        Args:
            terminal: its near side, which stays the caller's.
            pipe: the writing end of the pipe, which is ours from now on.
        """
        self._terminal = terminal
        self._pipe = pipe
        self._splices = True

    async def carry(self, ended: trio.Event) -> None:
        """Carry until nobody has the terminal open and the job's process has ended; then the pipe ends too."""
        while True:
            await trio.lowlevel.wait_readable(self._terminal)
            try:
                for _ in range(PIECES):
                    self._move()
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._pipe)
            except OSError as exc:
                if exc.errno != errno.EIO:
                    raise
                if ended.is_set():
                    break
                with trio.move_on_after(PAUSE):
                    await ended.wait()
        self.close()

    def _move(self) -> None:
        if self._splices:
            try:
                os.splice(self._terminal, self._pipe, PIECE, flags=os.SPLICE_F_NONBLOCK)
            except OSError as exc:
                if exc.errno != errno.EINVAL:
                    raise
                self._splices = False
        else:
            # A kernel that cannot splice from a terminal: a kill between these two calls loses one piece.
            if not _has_room(self._pipe):
                raise BlockingIOError
            os.write(self._pipe, os.read(self._terminal, ATOMIC))

    def close(self) -> None:
        """Let go of the pipe. What is in it stays, as long as somebody holds its reading end."""
        if self._pipe >= 0:
            trio.lowlevel.notify_closing(self._pipe)
            os.close(self._pipe)
            self._pipe = -1
