"""The state directory: made private, and held by one daemon at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from api.errors import ConfigError
from jobd.launcher.protocol import held_by


class HeldError(ConfigError):
    """Another jobd has the directory.

    Attributes:
        path: the directory.
        holder: the pid that the other one left there.
    """

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{held_by(str(path), holder)}; stop that one, or choose another --state")
        self.path = path
        self.holder = holder


STORE: Final = "jobs.sqlite3"
"""The file of the job store."""
RESTORING: Final = "restoring"
"""Where a backup is restored: it is there until all of that is in its place."""
_NOT_A_FILE: Final = "{} is not a file; jobd keeps its lock there: move it away"


@dataclass(frozen=True, slots=True)
class Held:
    """A state directory that is ours.

    Attributes:
        lock: the descriptor that holds it; whoever has a duplicate holds it too.
    """

    path: Path
    lock: int

    def name_holder(self, pid: int) -> None:
        """Tell others another pid than before."""
        _write_pid(self.lock, pid)


@contextmanager
def hold_directory(path: Path, kept: int | None = None, holder: int | None = None) -> Iterator[Held]:
    """Make the directory if need be and lock it; the lock goes with those who hold it, however they end.

    Args:
        kept: the lock's descriptor, as a server before this one got it; owned by this block.
        holder: the pid that others are told; this process's own by default.

    Raises:
        ConfigError: it cannot be made or written, belongs to somebody else, is open to others, or is not the one that
            ``kept`` is of.
        HeldError: another jobd has it.
    """
    if kept is not None and not _is_still_there(path / "lock", kept):
        os.close(kept)
        raise ConfigError(
            f"the state directory {path} is not the one that jobd began with: it was removed or replaced, and the "
            "jobs that run are not in it; put it back"
        )
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as exc:
        raise ConfigError(f"the state directory {path} cannot be used: {exc.strerror}") from exc
    if status.st_uid != os.geteuid():
        raise ConfigError(
            f"the state directory {path} belongs to uid {status.st_uid}, not to the user that jobd runs as"
        )
    if status.st_mode & 0o077:
        raise ConfigError(f"others can enter the state directory {path}; make it private with: chmod 700 {path}")
    fd = _lock(path / "lock", holder or os.getpid()) if kept is None else kept
    try:
        yield Held(path, fd)
    finally:
        os.close(fd)


def check_restored(path: Path) -> None:
    """See that a restore that was begun came to its end: else an empty store would be made in its place.

    Raises:
        ConfigError: it did not.
    """
    if (path / RESTORING).exists() and not (path / STORE).exists():
        raise ConfigError(f"a restore into {path} was cut off: empty that directory, and restore again")


def _is_still_there(path: Path, kept: int) -> bool:
    try:
        return os.path.samestat(os.fstat(kept), path.stat())
    except OSError:
        return False


def _lock(path: Path, holder: int) -> int:
    try:
        # Whatever stands there instead of our file is not written into (a link), nor waited for (a fifo).
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise ConfigError(_NOT_A_FILE.format(path)) from exc
        raise ConfigError(f"the state directory {path.parent} cannot be written: {exc.strerror}") from exc
    try:
        _take(fd, path)
    except BaseException:  # refused, whatever for: the descriptor, and with it a lock, must not stay
        os.close(fd)
        raise
    _write_pid(fd, holder)
    return fd


def _take(fd: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise ConfigError(_NOT_A_FILE.format(path))
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno not in (errno.EAGAIN, errno.EACCES):
            raise ConfigError(f"the state directory {path.parent} cannot be locked: {exc.strerror}") from exc
        raise HeldError(path.parent, _pid_in(fd)) from exc


def _pid_in(fd: int) -> str:
    """What the file says, if it can be a pid: anybody may have written there."""
    with contextlib.suppress(OSError):
        text = os.pread(fd, 32, 0).strip()
        if text.isdigit():
            return text.decode()
    return "unknown"


def _write_pid(fd: int, pid: int) -> None:
    """For people; the lock does not depend on it."""
    with contextlib.suppress(OSError):  # a full disk
        os.pwrite(fd, f"{pid}\n".encode(), 0)
        os.ftruncate(fd, len(f"{pid}\n"))
