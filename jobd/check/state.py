"""The state directory: whose it is, what is in it, and the disk that it is on. It is looked at as the server's user."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from api.errors import JobdError
from jobd.check.finding import Finding, Findings, good, weak, wrong
from jobd.config import Config
from jobd.launcher import control
from jobd.storage.directory import STORE, check_restored
from jobd.storage.schema import look_at
from jobd.unprivileged import acting_as, is_of_root_alone, server_user
from jobd.worker.identity import Identity

LITTLE: Final = 1 << 30
"""Bytes that should be free."""
LITTLE_INODES: Final = 10_000
REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs", "afs"})
IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
WHAT_OTHERS_MAY: Final = 0o077


def is_in_use(config: Config) -> bool:
    """A jobd has it now.

    Its launcher is connected to, and told nothing, as by ``jobd upgrade``: as root, not as the server's user. Whomever
    it turns away it tells of.
    """
    if config.user and os.geteuid() != 0:
        return False
    with suppress(OSError), control.connect(config.state):
        return True
    return False


def directory(config: Config, *, in_use: bool) -> Findings:
    """Is it the server's alone, and is the store in it sound?"""
    try:
        who = server_user(config)
    except JobdError:
        return  # that is told where users are looked at
    with acting_as(who):
        yield from _directory(config.state, who, in_use=in_use)


def _directory(path: Path, who: Identity | None, *, in_use: bool) -> Findings:
    try:
        status = path.stat()
    except FileNotFoundError:
        yield _will_be_made(path, who)
        return
    except OSError as exc:
        yield wrong("state", f"{path} cannot be used: {exc.strerror}")
        return
    if not stat.S_ISDIR(status.st_mode):
        yield wrong("state", f"{path} is not a directory")
        return
    if status.st_uid != os.geteuid():
        yield wrong("state", f"{path} belongs to uid {status.st_uid}, and the server would be uid {os.geteuid()}")
        return
    if status.st_mode & WHAT_OTHERS_MAY:
        yield wrong("state", f"others can enter {path}: chmod 700 it, and look who could have read it")
    if why := _not_to_be_held(path):
        yield wrong("state", f"{path} cannot be used: {why}")
        return
    yield good("state", f"{path} is used by a jobd now" if in_use else f"{path} is not in use")
    yield from _store(path / STORE)
    yield from _splice(path)


def _will_be_made(path: Path, who: Identity | None) -> Finding:
    if path.is_symlink():
        return wrong("state", f"{path} is a link to something that is not there")
    place = _nearest(path)
    by_root = who is not None and place == path.absolute().parent and is_of_root_alone(place.stat())
    if by_root or (who is None and _can_be_changed(place)):
        return good("state", f"{path} is not there, and will be made in {place}")
    return wrong("state", f"{path} is not there, and cannot be made in {place}")


def _not_to_be_held(path: Path) -> str:
    """Why the lock of the directory cannot be had, if it cannot."""
    if not _can_be_changed(path):
        return "it cannot be written"
    lock = path / "lock"
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(lock.lstat().st_mode):
            return f"{lock} is not a file"
        if not os.access(lock, os.R_OK | os.W_OK, effective_ids=True):
            return f"{lock} cannot be written"
    return ""


def _nearest(path: Path) -> Path:
    """The path, or what there is above it and can be looked at."""
    for each in (path.absolute(), *path.absolute().parents):
        with suppress(OSError):
            each.stat()
            return each
    return Path("/")


def _can_be_changed(directory: Path) -> bool:
    return directory.is_dir() and os.access(directory, os.W_OK | os.X_OK, effective_ids=True)


def _store(path: Path) -> Findings:
    try:
        check_restored(path.parent)
        if not path.exists():
            yield good("records", "none yet")
            return
        look_at(path)
    except JobdError as exc:
        yield wrong("records", exc)
    else:
        yield good("records", f"{path} is sound")


def _splice(path: Path) -> Findings:
    """Into a file without a name: nothing is left."""
    reading, writing = os.pipe()
    try:
        os.write(writing, b"x")
        with tempfile.TemporaryFile(dir=path) as file:
            os.splice(reading, file.fileno(), 1)
    except OSError as exc:
        yield weak(
            "output", f"{path} takes no splice(2) ({exc.strerror}): a kill of the server can lose a piece of output"
        )
    else:
        yield good("output", "goes from a job's pipe to the disk inside the kernel (splice(2))")
    finally:
        os.close(reading)
        os.close(writing)


def disk(config: Config) -> Findings:
    """Is there room for what may be kept, and does it stay?"""
    place = _nearest(config.state)
    room = os.statvfs(place)
    free = room.f_bavail * room.f_frsize
    if free < LITTLE or (room.f_files > 0 and room.f_favail < LITTLE_INODES):
        yield weak("disk", f"{_size(free)} and {room.f_favail} inodes are free at {place}: output will be dropped")
    elif free < config.keep_output:
        yield weak(
            "disk",
            f"{_size(free)} are free at {place}, and --keep-output lets output grow to {_size(config.keep_output)}",
        )
    else:
        yield good("disk", f"{_size(free)} are free at {place}")
    kind = _kind_of(place)
    if kind in REMOTE:
        yield weak(
            "disk", f"{place} is on another machine ({kind}): its locks and its durability are not this kernel's"
        )
    if kind in IN_MEMORY:
        yield weak("disk", f"{place} is in memory ({kind}): records and output go with the machine")


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _kind_of(place: Path) -> str:
    """The file system's kind, by the mount that is there (proc_pid_mountinfo(5))."""
    device = os.stat(place).st_dev  # noqa: PTH116 # the same
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == number:
            return after.split()[0]
    return ""
