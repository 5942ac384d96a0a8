"""What jobcli reads from its stdin, for a job."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

import trio

from api.errors import ConfigError

STDIN: Final = 0
PIECE: Final = 256 * 1024
MAX_GIVEN: Final = 1024 * 1024


class Input(Protocol):
    """A stdin of some kind."""

    async def receive(self) -> bytes:
        """What comes next; empty at the end."""


class _Polled:
    """A pipe, a terminal, a socket: it tells when there is something."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    async def receive(self) -> bytes:
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            try:
                return os.read(self._fd, PIECE)
            except BlockingIOError:
                continue  # somebody else, who has the same stdin, was faster
            except OSError:
                return b""  # the terminal has gone


class _File:
    """A file, or a device that never lets wait: there is always something, or the end."""

    async def receive(self) -> bytes:
        return await trio.to_thread.run_sync(os.read, STDIN, PIECE, abandon_on_cancel=True)


@contextmanager
def open_input() -> Iterator[Input]:
    """Our stdin. Whoever shares it with us sees no change of it: what must not block is opened anew."""
    kind = os.fstat(STDIN).st_mode
    if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or os.isatty(STDIN)):
        yield _File()
        return
    try:
        fd = os.open(f"/proc/self/fd/{STDIN}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # a socket, or a terminal of somebody else: it is only read when there is something
        fd = os.dup(STDIN)
    try:
        yield _Polled(fd)
    finally:
        trio.lowlevel.notify_closing(fd)
        os.close(fd)


def given(path: Path | None) -> bytes | None:
    """What a job is to be given as its stdin, if a file was named.

    Raises:
        ConfigError: it cannot be read, or is too large to be sent with the job.
    """
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            data = file.read(MAX_GIVEN + 1)
    except OSError as exc:
        raise ConfigError(f"--stdin {str(path)!a} cannot be read: {exc.strerror}") from exc
    if len(data) > MAX_GIVEN:
        raise ConfigError(f"--stdin {str(path)!a} has more than {MAX_GIVEN} bytes; feed it to 'jobcli run -i'")
    return data
