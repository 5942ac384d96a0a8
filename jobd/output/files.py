"""The files of a job's log: numbered segments, each a file of bytes and an index, never renamed.

``<root>/<first two of the id>/<id>.<offset of the first byte, 16 hex digits>`` and the same with ``.index``. A job that
writes nothing has none. Everything here blocks: it is called in threads.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jobd.output.record import ENTRY, Entry, unpack_all
from jobd.worker.ports import Buffer

SUFFIX: Final = ".index"
_SEGMENT: Final = re.compile("[0-9a-f]{16}")
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
# The index is made first: one without its data file is what a kill in between left, and holds nothing.
_NEW_INDEX: Final = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
_OLD: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_PAGE: Final = 4096
EARLY: Final = 8 * 1024 * 1024
"""Bytes that the disk is told to begin with. Without that, all of a segment is waited for when it is full: 16 ms for
64 MiB on a disk of 3 GB/s, in which nobody empties the job's pipe."""
_SYNC_FILE_RANGE_WRITE: Final = 2
_sync_file_range: Final = getattr(ctypes.CDLL(None), "sync_file_range", None)  # a C library may have none
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


@dataclass
class Segment:
    """The open files of one segment.

    Attributes:
        start: the offset of its first byte.
        begun: bytes that the disk was told to begin with.
    """

    start: int
    data: int
    index: int
    begun: int = 0

    @classmethod
    def create(cls, root: Path, job_id: str, start: int) -> Segment:
        """Make a new segment, 0600."""
        path = _path(root, job_id, start)
        try:
            index = _make_index(path)
        except FileNotFoundError:
            # Not what is above them: a state directory that was taken away is not made again.
            for directory in (root, path.parent):
                directory.mkdir(mode=0o700, exist_ok=True)
            index = _make_index(path)
        return cls._beside(index, start, lambda: _make_data(path))

    @classmethod
    def reopen(cls, root: Path, job_id: str, start: int) -> Segment:
        """Open a segment to write on."""
        return cls._open(_path(root, job_id, start), start, _OLD)

    @classmethod
    def read(cls, root: Path, job_id: str, start: int) -> Segment:
        """Open a segment to read."""
        return cls._open(_path(root, job_id, start), start, _READ)

    @classmethod
    def _open(cls, path: Path, start: int, flags: int) -> Segment:
        return cls._beside(os.open(_index_of(path), flags), start, lambda: os.open(path, flags))

    @classmethod
    def _beside(cls, index: int, start: int, open_data: Callable[[], int]) -> Segment:
        try:
            return cls(start, open_data(), index)
        except OSError:
            os.close(index)
            raise

    def entries(self, first: int, count: int, *, until: int | None = None, now: bool = False) -> list[Entry]:
        """At most ``count`` entries of the index, from number ``first`` on.

        Args:
            until: the first entry that begins after this offset is the last one that is wanted.
            now: as for :func:`read_file`.

        Raises:
            BlockingIOError: not all of them are in memory. (Whose a byte is, is known by the entry after it.)
        """
        wanted, begin = count * ENTRY.size, first * ENTRY.size
        found = read_file(self.index, wanted, begin, now=now)
        if now and len(found) < wanted and begin + len(found) < os.fstat(self.index).st_size:
            raise BlockingIOError
        return unpack_all(found, until)

    @property
    def entry_count(self) -> int:
        """How many entries the index has room for."""
        return os.fstat(self.index).st_size // ENTRY.size

    @property
    def size(self) -> int:
        """Bytes of data."""
        return os.fstat(self.data).st_size

    def write_early(self, end: int) -> None:
        """Let the disk begin with what stands before this offset, if that is much. It is not waited for, and nothing is
        durable yet: what fails shows when that is asked for."""
        whole = (end - self.start) // _PAGE * _PAGE
        if whole - self.begun >= EARLY and _sync_file_range is not None:
            _sync_file_range(self.data, self.begun, whole - self.begun, _SYNC_FILE_RANGE_WRITE)
            self.begun = whole

    def close(self) -> None:
        os.close(self.data)
        os.close(self.index)


def read_file(fd: int, size: int, position: int, *, now: bool) -> Buffer:
    """Bytes of a file; fewer than ``size`` at its end.

    Args:
        now: only what is in memory; fewer bytes, too, where the rest is not (RWF_NOWAIT, preadv(2)).

    Raises:
        BlockingIOError: nothing of it is in memory.
        OSError: it cannot be read; EOPNOTSUPP: the file system does not say what is in memory.
    """
    if not now:
        return os.pread(fd, size, position)
    buffer = bytearray(size)
    return memoryview(buffer)[: os.preadv(fd, [buffer], position, os.RWF_NOWAIT)]


def write_all(fd: int, data: bytes, position: int) -> None:
    """Write bytes to a file, all of them."""
    while data:
        written = os.pwrite(fd, data, position)
        data, position = data[written:], position + written


def _path(root: Path, job_id: str, start: int) -> Path:
    return root / job_id[:2] / f"{job_id}.{start:016x}"


def _index_of(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def _make_index(path: Path) -> int:
    return os.open(_index_of(path), _NEW_INDEX, 0o600)


def _make_data(path: Path) -> int:
    return os.open(path, _NEW, 0o600)


def starts_of(root: Path, job_id: str) -> list[int]:
    """Where the job's segments start, first to last."""
    try:
        names = os.listdir(root / job_id[:2])  # noqa: PTH208 # names are enough; a path for each would cost more
    except FileNotFoundError:
        return []
    found = (_SEGMENT.fullmatch(name.removeprefix(f"{job_id}.")) for name in names if name.startswith(f"{job_id}."))
    return sorted(int(match[0], 16) for match in found if match)


def names_of(root: Path, job_id: str) -> list[tuple[str, str]]:
    """The names below the root of each segment's index and data, first to last."""
    paths = [_path(root, job_id, start) for start in starts_of(root, job_id)]
    return [(str(_index_of(path).relative_to(root)), str(path.relative_to(root))) for path in paths]


def delete(root: Path, job_id: str) -> None:
    """Delete all files of a job; what is gone already is no error."""
    for path in (root / job_id[:2]).glob(f"{job_id}.*"):
        _delete_file(path)


def _delete_file(path: Path) -> None:
    path.unlink(missing_ok=True)
