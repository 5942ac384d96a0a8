"""What jobs write while they are measured, and what came of it.

Bytes that nothing predicts, out of a file. What comes is kept while the clock runs (memory that is there already: a
copy, and nothing else), and hashed when it has stopped: a byte that is missing, doubled, or at another's place, is a
run that was not correct.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.benchmarks.correct import check

MIB: Final = 1024 * 1024
MUCH: Final = 32 * MIB
TAKEN_AWAY: Final = 2.5
"""Seconds after which a hypervisor has what nobody uses (Linux's free page reporting waits for 2)."""


def make(path: Path, mebibytes: int) -> Path:
    """A file of so many MiB, on the disk before anything is measured."""
    with path.open("wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())
    return path


def written_by(path: str | Path, size: int) -> Sequence[str]:
    """The command of a job that writes so many bytes of the file, in the usual small pieces."""
    return ("head", "-c", str(size), str(path))


def digest(path: str | Path, size: int) -> bytes:
    """Of the file's first bytes."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as all_:  # noqa: PTH123 # a name, or a path
        return hashlib.sha256(all_).digest()


def have_memory(size: int) -> None:
    """Let the machine have so much memory at hand for files, as one has that is not a virtual one. A hypervisor takes
    away what nobody uses, two seconds after it was first told that there is some; to get it back is 2 ms a MiB, page by
    page, and whoever records would pay it. So what was given up before this is left to be taken first.
    """
    if size >= MUCH:
        time.sleep(TAKEN_AWAY)
    with tempfile.TemporaryFile(buffering=0) as file:
        piece = bytes(MIB)
        for start in range(0, size, MIB):
            file.write(piece[: size - start])


class Kept:
    """Room for what is to come.

    Attributes:
        came: bytes that have.
    """

    def __init__(self, size: int) -> None:
        self._file = os.memfd_create("kept")
        os.posix_fallocate(self._file, 0, size)
        self._room = mmap.mmap(self._file, size)
        for start in range(0, size, MIB):  # a page that is there already costs nothing later
            self._room[start : start + MIB] = bytes(min(MIB, size - start))
        self._size = size
        self.came = 0

    def take(self, data: bytes | memoryview) -> None:
        """Some bytes have come."""
        end = self.came + len(data)
        check(end <= self._size, f"{end} bytes came of {self._size}")
        self._room[self.came : end] = data
        self.came = end

    def splice(self, pipe: int) -> int:
        """Take what is in a pipe, without a look at it; how much, 0 at its end."""
        room = self._size - self.came
        if not room:
            check(not os.read(pipe, 1), f"more than {self._size} bytes came")
            return 0
        count = os.splice(pipe, self._file, min(room, MIB), offset_dst=self.came)
        self.came += count
        return count

    def view(self, most: int) -> memoryview:
        """Where the next bytes may be put; they are counted with :meth:`add`."""
        return memoryview(self._room)[self.came : self.came + most]

    def add(self, count: int) -> None:
        """So many were put there."""
        self.came += count

    def begin(self) -> None:
        """All that has come is forgotten."""
        self.came = 0

    def judge(self, expected: bytes, whose: str = "") -> None:
        """When the clock has stopped.

        Args:
            expected: the hash of all that had to come.
            whose: it was, for the message.

        Raises:
            IncorrectRunError: it is something else.
        """
        check(self.came == self._size, f"{whose}: {self.came} bytes came of {self._size}")
        check(hashlib.sha256(self._room).digest() == expected, f"{whose}: the bytes that came have another hash")

    def close(self) -> None:
        """Give the memory back."""
        self._room.close()
        os.close(self._file)


@contextmanager
def kept(size: int) -> Iterator[Kept]:
    """The block has the room."""
    made = Kept(size)
    try:
        yield made
    finally:
        made.close()
