"""A job's records in numbered files that are only ever appended to, and never renamed.

``<root>/<first two of the id>/<id>.<offset of the first byte, 16 hex digits>``. A job that writes nothing has no
file. Everything here blocks: it is called in threads.
"""

from __future__ import annotations

import bisect
import contextlib
import os
from pathlib import Path
from typing import Final

from jobd.output.record import HEADER, MAX_DATA, pack, unpack_all
from jobd.worker.ports import Record

SEGMENT_SIZE: Final = 64 * 1024 * 1024
READ_SIZE: Final = 256 * 1024
assert HEADER.size + MAX_DATA > READ_SIZE


INDEX_STEP: Final = 1024 * 1024


class Index:
    """Where in the segments an offset stands, one entry for about each MiB. Written by one thread, read by any."""

    def __init__(self) -> None:
        self._offsets: list[int] = []
        self._places: list[tuple[int, int]] = []  # (start of the segment, position in its file)

    def add(self, offset: int, segment: int, position: int) -> None:
        """Note that the record at ``offset`` stands there."""
        if not self._offsets or segment != self._places[-1][0] or position - self._places[-1][1] >= INDEX_STEP:
            self._places.append((segment, position))
            self._offsets.append(offset)

    def place(self, offset: int) -> tuple[int, int] | None:
        """The last noted place at or before ``offset``."""
        found = bisect.bisect_right(self._offsets, offset)
        return self._places[found - 1] if found else None


def _directory(root: Path, job_id: str) -> Path:
    return root / job_id[:2]


class SegmentWriter:
    """Appends records. One writer for each job, used by one thread at a time."""

    def __init__(self, root: Path, job_id: str, segment_size: int = SEGMENT_SIZE) -> None:
        self._root = root
        self._job_id = job_id
        self._segment_size = segment_size
        self._fd = -1
        self._start = 0
        self._size = 0
        self.index = Index()

    def append(self, record: Record) -> None:
        """Write one record whole, or leave the file as it was.

        Raises:
            OSError: it could not be written.
        """
        if self._fd < 0 or self._size >= self._segment_size:
            self._open_next(record.offset)
        pieces = pack(record)
        size = sum(map(len, pieces))
        try:
            written = os.writev(self._fd, pieces)
            if written < size:  # the disk became full, or a signal came: the second try tells which
                written += _write_all(self._fd, b"".join(pieces)[written:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise
        self.index.add(record.offset, self._start, self._size)
        self._size += size

    def _open_next(self, offset: int) -> None:
        directory = _directory(self._root, self._job_id)
        path = directory / f"{self._job_id}.{offset:016x}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(path, flags, 0o600)
        if self._fd >= 0:
            self.close()
        self._fd, self._start, self._size = fd, offset, 0

    def close(self) -> None:
        """Make everything durable and let go of the file.

        Raises:
            OSError: the disk failed.
        """
        if self._fd >= 0:
            try:
                os.fdatasync(self._fd)
            finally:
                os.close(self._fd)
                self._fd = -1


def _write_all(fd: int, data: bytes) -> int:
    done = 0
    while done < len(data):
        done += os.write(fd, data[done:])
    return done


class SegmentReader:
    """Reads a job's records from an offset on. One reader for each follower, used by one thread at a time."""

    def __init__(self, root: Path, job_id: str, offset: int, index: Index) -> None:
        self._root = root
        self._job_id = job_id
        self._index = index
        self._offset = offset  # the first byte that was not given yet
        self._segment: Path | None = None
        self._fd = -1
        self._position = 0

    def skip_to(self, offset: int) -> None:
        """Go on at a later offset: what lies between was read elsewhere."""
        if offset - self._offset > INDEX_STEP:
            self.close()
        self._offset = offset

    def read(self) -> list[Record]:
        """The next records that are on disk; none when there are no more now."""
        while True:
            if self._fd < 0 and not self._open_at_offset():
                return []
            records, size = unpack_all(os.pread(self._fd, self._wanted(), self._position))
            if not records:
                if not self._open_following():
                    return []
                continue
            self._position += size
            fresh = [self._from_offset(record) for record in records if record.end > self._offset]
            if fresh:
                self._offset = fresh[-1].end
                return fresh

    def _wanted(self) -> int:
        """Bytes to read: a record longer than the usual batch must still come whole."""
        header = os.pread(self._fd, HEADER.size, self._position)
        if len(header) < HEADER.size:
            return HEADER.size
        length: int = HEADER.unpack(header)[1]
        return max(READ_SIZE, HEADER.size + min(length, MAX_DATA))

    def _from_offset(self, record: Record) -> Record:
        cut = max(self._offset - record.offset, 0)
        return Record(record.offset + cut, record.source, record.time, record.data[cut:]) if cut else record

    def _open_at_offset(self) -> bool:
        """Open the last segment that begins at or before the offset, near it if the index knows where."""
        segments = [segment for segment in segments_of(self._root, self._job_id) if _start(segment) <= self._offset]
        if not segments:
            return False
        self._open(segments[-1])
        place = self._index.place(self._offset)
        if place and place[0] == _start(segments[-1]):
            self._position = place[1]
        return True

    def _open_following(self) -> bool:
        segments = segments_of(self._root, self._job_id)
        following = [s for s in segments if self._segment and _start(s) > _start(self._segment)]
        if following:
            self._open(following[0])
        return bool(following)

    def _open(self, segment: Path) -> None:
        fd = os.open(segment, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self.close()
        self._segment, self._fd, self._position = segment, fd, 0

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def segments_of(root: Path, job_id: str) -> list[Path]:
    """The job's segments, first to last."""
    return sorted(_directory(root, job_id).glob(f"{job_id}.*"), key=_start)


def _start(segment: Path) -> int:
    return int(segment.suffix[1:], 16)


def recover(root: Path, job_id: str) -> int:
    """Cut the torn tail that a crash may have left; returns the offset after the last whole record."""
    end = 0
    for segment in segments_of(root, job_id):
        fd = os.open(segment, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            position = 0
            while True:
                records, size = unpack_all(os.pread(fd, READ_SIZE + HEADER.size + MAX_DATA, position))
                if not records:
                    break
                position += size
                end = records[-1].end
            if position < os.fstat(fd).st_size:
                os.ftruncate(fd, position)
        finally:
            os.close(fd)
    return end
