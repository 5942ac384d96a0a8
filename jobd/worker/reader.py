"""Carries one stream of a job from its pipe into its log."""

from __future__ import annotations

import fcntl
import select
import sys
import termios

import trio

from jobd.worker.ports import OutputLog, Pipe, Source


class Reader:
    """One for each stream: ``run`` until its end, or until it is halted; then ``finish``."""

    def __init__(self, output: OutputLog, source: Source, pipe: Pipe) -> None:
        self._output = output
        self._source = source
        self._pipe = pipe
        self._waiting = trio.CancelScope()
        self._done = trio.Event()
        self.at_end = trio.Event()

    async def run(self) -> None:
        try:
            with self._waiting:
                await self._carry()
                self.at_end.set()
        finally:
            self._done.set()

    async def _carry(self) -> None:
        goes_on: bool | None = True
        while goes_on:
            await self._pipe.wait_readable()
            pipe = self._pipe.fileno()
            size = in_pipe(pipe)
            if not size and polled(pipe) == select.POLLHUP:
                return  # the end, and nothing before it: no thread, and no file for a job that writes nothing
            goes_on = self._output.take_at_once(self._source, pipe, size)
            if goes_on is None:
                with trio.CancelScope(shield=True):
                    goes_on = await self._output.take(self._source, pipe)

    async def halt(self) -> None:
        """Wait for no more bytes."""
        if not self.at_end.is_set():
            self._waiting.cancel()
            await self._done.wait()

    async def finish(self) -> bool:
        """Take what is there, and no more: whoever still writes may do so faster than we read. False: the stream had
        not ended. Only after every reader of the job was halted."""
        if self.at_end.is_set():
            return True
        left = in_pipe(self._pipe.fileno())
        while not self.at_end.is_set() and (state := polled(self._pipe.fileno())):
            if left <= 0 and not state & select.POLLHUP:
                break
            before = self._output.end + self._output.dropped
            if not await self._output.take(self._source, self._pipe.fileno()):
                self.at_end.set()
            taken = self._output.end + self._output.dropped - before
            left -= taken
            if not taken:
                break
        return self.at_end.is_set()

    def close(self) -> None:
        """Let go of the pipe."""
        self._pipe.close()


def polled(fd: int) -> int:
    """What poll(2) says of a pipe: nothing, that there are bytes, that nobody can write to it any more."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return sum(event for _, event in poll.poll(0))


def in_pipe(fd: int) -> int:
    """How many bytes are in a pipe."""
    count = fcntl.ioctl(fd, termios.FIONREAD, bytes(4))
    return int.from_bytes(count, sys.byteorder)
