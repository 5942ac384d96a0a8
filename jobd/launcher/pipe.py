"""The reading end of a job's stream, in the server."""

from __future__ import annotations

import os

import trio


class FdPipe:
    """A descriptor as a :class:`jobd.worker.ports.Pipe`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_blocking(fd, False)

    def fileno(self) -> int:
        return self._fd

    async def wait_readable(self) -> None:
        await trio.lowlevel.wait_readable(self._fd)

    def close(self) -> None:
        trio.lowlevel.notify_closing(self._fd)
        os.close(self._fd)
