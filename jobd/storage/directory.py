"""The state directory: made private, and held by one daemon at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True, slots=True)
class Held:
    """A state directory that is ours.

    Attributes:
        lock: the descriptor that holds it; whoever has a duplicate holds it too.
        continued: it has been held without a break since a server before this one.
    """

    path: Path
    lock: int
    continued: bool = False

    def name_holder(self, pid: int) -> None:
        """Tell others another pid than before."""
        os.ftruncate(self.lock, 0)
        os.pwrite(self.lock, f"{pid}\n".encode(), 0)


@contextmanager
def hold_directory(path: Path, kept: int | None = None, holder: int | None = None) -> Iterator[Held]:
    """Make the directory if need be and lock it; the lock goes with those who hold it, however they end.

    Args:
        kept: the lock's descriptor, as a server before this one got it; owned by this block.
        holder: the pid that others are told; this process's own by default.

    Raises:
        ConfigError: it cannot be made or written, belongs to somebody else, or is open to others.
        HeldError: another jobd has it.
    """
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
    if kept is not None and _is_lock_of(path / "lock", kept):
        fd, continued = kept, True
    else:
        fd, continued = _lock(path / "lock", holder or os.getpid()), False
    try:
        yield Held(path, fd, continued)
    finally:
        os.close(fd)


def _is_lock_of(path: Path, kept: int) -> bool:
    """The descriptor is that of this very file; if not, it is closed."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(kept), path.stat()):
            return True
    os.close(kept)
    return False


def _lock(path: Path, holder: int) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise ConfigError(f"the state directory {path.parent} cannot be written: {exc.strerror}") from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{holder}\n".encode(), 0)
    except OSError as exc:
        holding = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        os.close(fd)
        if exc.errno in (errno.EAGAIN, errno.EACCES):
            raise HeldError(path.parent, holding or "unknown") from exc
        raise ConfigError(f"the state directory {path.parent} cannot be written: {exc.strerror}") from exc
    return fd
