"""The audit log's file: written at its end only, taken up where it was left, and opened anew when it was rotated."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from api.errors import ConfigError
from jobd.audit.chain import MAX_LINE, Head, read, sum_of

_FLAGS: Final = os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_RDWR
_HEAD_LENGTH: Final = 20 + 1 + 64 + 1


@dataclass(frozen=True, slots=True)
class End:
    """Where a file ends.

    Attributes:
        head: how far its chain is; None in an empty file.
        torn: its last line was cut, and is a part of the chain as it is.
    """

    head: Head | None
    torn: bool = False


def open_file(path: Path) -> int:
    """Open it for appending, and make it if it is not there: 0600.

    Raises:
        OSError: it cannot be opened.
        ConfigError: it is no file, or one that everybody can write.
    """
    return _see_that_it_is_one(os.open(path, _FLAGS, 0o600), path)


def open_there(path: Path) -> int:
    """Open it for reading, if it is there.

    Raises:
        OSError, ConfigError: as :func:`open_file`.
    """
    return _see_that_it_is_one(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), path)


def _see_that_it_is_one(fd: int, path: Path) -> int:
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode) or mode & stat.S_IWOTH:
        os.close(fd)
        why = "everybody can write it" if stat.S_ISREG(mode) else "it is not a file"
        raise ConfigError(f"the audit log {path} cannot be used: {why}")
    return fd


def end_of(fd: int, path: Path) -> End:
    """Where it ends.

    Raises:
        ConfigError: what is in it is no audit log.
    """
    size = os.fstat(fd).st_size
    if not size:
        return End(None)
    tail = os.pread(fd, 3 * MAX_LINE, max(0, size - 3 * MAX_LINE))
    *whole, piece = tail.split(b"\n")
    if read(piece):  # all of a line, but for its newline
        whole, piece = [*whole, piece], b""
    last = read(whole[-1]) if whole else None
    if piece and not whole and size == len(tail):  # the very first line was cut
        return End(Head(1, sum_of(piece)), torn=True)
    if last is None and len(whole) > 1 and not piece:  # a piece that was ended, and a kill before the line after it
        last = read(whole[-2])
        if last is not None:
            return End(Head(last["seq"] + 1, sum_of(whole[-1])), torn=True)
    if last is None:
        raise ConfigError(f"{path} is not an audit log of jobd, or was damaged: move it away, or name another file")
    if piece:
        return End(Head(last["seq"] + 1, sum_of(piece)), torn=True)
    return End(Head(last["seq"], sum_of(whole[-1])))


def ends_in_a_piece(fd: int) -> bool:
    """The last byte is no newline."""
    size = os.fstat(fd).st_size
    return bool(size) and os.pread(fd, 1, size - 1) != b"\n"


class Memory:
    """How far the chain is, in the state directory: for when the file was rotated away while nobody was here."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)

    def recall(self) -> Head:
        """What was noted last; the beginning if nothing was."""
        number, _, sum_ = os.pread(self._fd, _HEAD_LENGTH, 0).decode("ascii", "replace").strip().partition(" ")
        return Head(int(number), sum_) if number.isdecimal() and len(sum_) == 64 else Head()

    def note(self, head: Head) -> None:
        """Remember it."""
        os.pwrite(self._fd, f"{head.number:020d} {head.sum}\n".encode(), 0)

    def close(self) -> None:
        os.close(self._fd)
