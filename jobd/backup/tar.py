"""Reading a tar stream that somebody else may have made, for files of the simplest kind.

Python's own reader knows sparse files (a kilobyte of which fills a disk), names and maps of any length, and much more;
a backup has none of it. So only what one has is known here, and everything else is refused before it is read.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, Final

from api.errors import JobdError

FILES: Final = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE})
MAX_EXTENSION: Final = 4096
"""Bytes of the extended header of a file."""
HARMLESS: Final = frozenset({b"size", b"mtime", b"atime", b"ctime", b"comment"})
CUT: Final = "it is not whole: its end is missing"
NO_BACKUP: Final = "it is not a backup of jobd, or not whole"
_SKIP: Final = 1024 * 1024
_RECORD: Final = re.compile(rb"[0-9]{1,4} ([^=\n]+)=([^\n]*)\n")


class BackupError(JobdError):
    """There is no backup, or what is said to be one is none."""


class Content:
    """What is in a file. Has to be read, or left, before the next one is asked for."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._left = size

    def read(self, size: int) -> bytes:
        """At most so many bytes; b"" at the end.

        Raises:
            BackupError: there are fewer than it is said to have.
        """
        data = self._stream.read(min(size, self._left))
        if not data and size and self._left:
            raise BackupError(NO_BACKUP)
        self._left -= len(data)
        return data

    def leave(self) -> None:
        """Go to its end."""
        while self.read(_SKIP):
            pass


def entries(stream: BinaryIO) -> Iterator[tuple[str, Content]]:
    """The name of each file, and what is in it.

    Raises:
        BackupError: there is something else than files, or the stream is cut or no tar stream.
        OSError: it cannot be read.
    """
    while (entry := _header(stream)) is not None:
        size = None
        if entry.type == tarfile.XHDTYPE and entry.size <= MAX_EXTENSION:
            size = _size_in(_block(stream, entry.size))
            entry = _header(stream)
            if entry is None:
                raise BackupError(CUT)
        if entry.type not in FILES or entry.size < 0:
            raise BackupError(f"{entry.name!a} in it is not a file")
        size = entry.size if size is None else size
        content = Content(stream, size)
        yield entry.name, content
        content.leave()
        _block(stream, -size % tarfile.BLOCKSIZE, padded=False)


def _header(stream: BinaryIO) -> tarfile.TarInfo | None:
    block = _block(stream, tarfile.BLOCKSIZE)
    if not any(block):  # of zeros: the end
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.TarError, ValueError) as exc:
        raise BackupError(NO_BACKUP) from exc


def _size_in(extension: bytes) -> int | None:
    """The size that an extended header gives, for one beyond 8 GiB."""
    size, position = None, 0
    while position < len(extension):
        found = _RECORD.match(extension, position)
        if found is None or found[1] not in HARMLESS:
            raise BackupError(NO_BACKUP)
        if found[1] == b"size":
            if not re.fullmatch(rb"[0-9]{1,18}", found[2]):
                raise BackupError(NO_BACKUP)
            size = int(found[2])
        position = found.end()
    return size


def _block(stream: BinaryIO, size: int, *, padded: bool = True) -> bytes:
    """So many bytes; what a block is filled up with is read, and left out."""
    content = Content(stream, size + (-size % tarfile.BLOCKSIZE if padded else 0))
    data = b""
    while piece := content.read(tarfile.BLOCKSIZE):
        data += piece
    return data[:size]
