"""The audit log's file: written at its end only, taken up where it was left, and opened anew when it was rotated."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Final

from api.errors import ConfigError
from jobd.audit.chain import MAX_LINE, Head, read, sum_of

_FLAGS: Final = os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_RDWR
_HEAD_LENGTH: Final = 20 + 1 + 64 + 1
_BEGINS: Final = b'{"seq":'


NOTHING: Final = Head()
"""What a chain begins with."""


@dataclass(frozen=True, slots=True)
class End:
    """Where a file ends.

    Attributes:
        head: how far its chain is; None in an empty file.
        torn: so many lines at its end were cut, and are a part of the chain as they are.
        changed: the line that was the last one is another one now.
    """

    head: Head | None
    torn: int = 0
    changed: bool = False


def open_file(path: Path) -> int:
    """Open it for appending, and make it if it is not there: 0600. Nobody else can have it so meanwhile.

    Raises:
        OSError: it cannot be opened.
        ConfigError: it is no file, one that everybody can write, or one that another jobd writes.
    """
    fd = _see_that_it_is_one(os.open(path, _FLAGS, 0o600), path)
    try:
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
    except OSError:  # a file system without locks
        return fd
    os.close(fd)
    raise ConfigError(f"the audit log {path} cannot be used: another jobd writes it; name a file for each")


def open_there(path: Path) -> int:
    """Open it for reading, if it is there.

    Raises:
        OSError, ConfigError: as :func:`open_file`.
    """
    return _see_that_it_is_one(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), path)


def see_that_it_can_be_written(path: Path, name: str) -> bool:
    """Whether it is there; if not, it can be made. By the user that we are now, and whatever its lock says.

    Args:
        name: that user's, for the error.

    Raises:
        ConfigError: it cannot be gone on with, or made.
    """
    try:
        fd = open_there(path)
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise ConfigError(f"{path} cannot be made: there is no directory {path.parent}") from None
        if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
            raise ConfigError(f"{path} cannot be made: {name} may not write in {path.parent}") from None
        return False
    except OSError as exc:
        raise ConfigError(f"{path} cannot be used: {exc.strerror}") from exc
    try:
        end_of(fd, path)
    finally:
        os.close(fd)
    if not os.access(path, os.W_OK, effective_ids=True):
        raise ConfigError(f"{path} cannot be used: {name} may not write it")
    return True


def _see_that_it_is_one(fd: int, path: Path) -> int:
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode) or mode & stat.S_IWOTH:
        os.close(fd)
        why = "everybody can write it" if stat.S_ISREG(mode) else "it is not a file"
        raise ConfigError(f"the audit log {path} cannot be used: {why}")
    return fd


def end_of(fd: int, path: Path, remembered: Head = NOTHING) -> End:
    """Where it ends.

    Args:
        remembered: how far the chain was when that was noted last: what the file goes on from, if it begins with a
            line that was cut.

    Raises:
        ConfigError: what is in it is no audit log.
    """
    size = os.fstat(fd).st_size
    if not size:
        return End(None)
    tail = os.pread(fd, 3 * MAX_LINE, max(0, size - 3 * MAX_LINE))
    lines = tail.removesuffix(b"\n").split(b"\n")
    if size > len(tail):
        del lines[0]  # a part of one
    pieces = list(takewhile(lambda line: read(line) is None, reversed(lines)))[::-1]
    whole = lines[: len(lines) - len(pieces)]
    if not all(map(_may_be_a_piece, pieces)) or not (whole or size == len(tail)):
        raise ConfigError(f"{path} is not an audit log of jobd, or was damaged: move it away, or name another file")
    head = _head_of(whole[-1]) if whole else remembered
    for piece in pieces:
        head = head.after_piece(piece)
    return End(head, len(pieces), _was_changed(whole, remembered))


def _may_be_a_piece(line: bytes) -> bool:
    """The beginning of a line of ours, or what a power cut may leave in its place."""
    return _BEGINS.startswith(line[: len(_BEGINS)].rstrip(b"\0"))


def _head_of(line: bytes) -> Head:
    return Head((read(line) or {})["seq"], sum_of(line))


def _was_changed(lines: Sequence[bytes], remembered: Head) -> bool:
    heads = (_head_of(line) for line in reversed(lines) if read(line))
    return any(head != remembered for head in heads if head.number == remembered.number)


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
