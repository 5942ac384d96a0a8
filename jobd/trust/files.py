"""The files that say who we are and whom we trust: seen to change, and read as they are at one moment.

What is judged has to be what is used, so each file is read once, and OpenSSL is given what was read.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from api.errors import CredentialsError

MAX_BYTES: Final = 1 << 20
"""No certificate, key or bundle of CAs comes near this."""
MAX_LIST_BYTES: Final = 1 << 24
"""Room for about 300,000 revoked certificates."""

Look = tuple[tuple[Path, tuple[int, ...]], ...]
"""What files look like from outside; another one when one of them has changed."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the files held when they were read.

    Attributes:
        content: by path.
        unread: why the others could not be read.
    """

    content: dict[Path, bytes] = field(repr=False)
    unread: dict[Path, CredentialsError]

    def get(self, path: Path) -> bytes:
        """What this one held.

        Raises:
            CredentialsError: it could not be read.
        """
        if path in self.unread:
            raise self.unread[path]
        return self.content[path]

    @contextmanager
    def places(self) -> Iterator[dict[Path, Path]]:
        """Where OpenSSL, which wants files, finds what was read, for as long as the block lasts."""
        with ExitStack() as stack:
            found = {}
            for path, content in self.content.items():
                fd = os.memfd_create("jobd-credentials", os.MFD_CLOEXEC)
                stack.callback(os.close, fd)
                with os.fdopen(os.dup(fd), "wb") as file:
                    file.write(content)
                found[path] = Path(f"/proc/self/fd/{fd}")
            yield found


class Files:
    """Those that the settings name.

    Attributes:
        certificate: ours, and those of the intermediate CAs above it.
        key: its private key.
        ca: the CAs that we trust.
        passphrase: opens the key, if that is encrypted.
        crl: the revocation lists; None for none.
        pinned: what some of them held when they were read last, as they cannot be read again.
    """

    def __init__(
        self, certificate: Path, key: Path, ca: Path, passphrase: Path | None = None, crl: Path | None = None
    ) -> None:
        self.certificate = certificate
        self.key = key
        self.ca = ca
        self.passphrase = passphrase
        self.crl = crl
        self.pinned: dict[Path, bytes] = {}

    def look(self) -> Look:
        """What they look like now. Blocks, as long as the file system does."""
        return tuple((path, _look_at(path)) for path in self.all if path not in self.pinned)

    def read(self) -> Snapshot:
        """What they hold now: each that can be read, and that not everybody can write. Blocks."""
        content, unread = dict(self.pinned), {}
        for path, what in self.all.items():
            if path not in content:
                try:
                    content[path] = _read(path, what)
                except CredentialsError as exc:
                    unread[path] = exc
        return Snapshot(content, unread)

    def pin(self, last: Snapshot) -> list[Path]:
        """Keep what those held that this process cannot read (any more), and look at them no more; returns them.

        Those as well that can be read only once (a pipe).
        """
        for path in self.all:
            if path in last.content and not _can_be_read_again(path):
                self.pinned[path] = last.content[path]
        return list(self.pinned)

    @property
    def all(self) -> dict[Path, str]:
        """Each that is named, and what it is."""
        named = {
            self.certificate: "certificate",
            self.key: "private key",
            self.ca: "CA certificate",
            self.passphrase: "passphrase",
            self.crl: "revocation list",
        }
        return {path: what for path, what in named.items() if path is not None}


def _look_at(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError as exc:
        return (exc.errno or -1,)
    # Whoever writes can put the time of writing back, but not that of change.
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _can_be_read_again(path: Path) -> bool:
    try:
        return os.access(path, os.R_OK, effective_ids=True) and stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _read(path: Path, what: str) -> bytes:
    most = MAX_LIST_BYTES if what == "revocation list" else MAX_BYTES
    try:
        with path.open("rb") as file:
            if what != "passphrase":  # it opens a key, and lets nobody in
                _check_writers(path, what, os.fstat(file.fileno()))
            content = file.read(most + 1)
    except OSError as exc:
        raise CredentialsError(f"cannot read the {what} {path}: {exc.strerror}") from exc
    if len(content) > most:
        raise CredentialsError(f"the {what} {path} has more than {most} bytes")
    # Passphrases are text of any kind; the others, if they are PEM, end as they began unless half written.
    if what != "passphrase" and content.count(b"-----BEGIN ") != content.count(b"-----END "):
        raise CredentialsError(f"the {what} {path} is not whole: a PEM block in it has no end, or no beginning")
    return content


def _check_writers(path: Path, what: str, status: os.stat_result) -> None:
    """Who can write these files can let anybody in."""
    writers = others_who_write(status)
    if stat.S_ISREG(status.st_mode) and writers:
        raise CredentialsError(
            f"{writers.who} can write the {what} {path}: chmod {writers.mode} it, and see that it is yours still"
        )
    for place in {path, path.resolve()}:
        directory = place.parent.stat()
        writers = others_who_write(directory)
        if not writers:
            continue
        if not directory.st_mode & stat.S_ISVTX:
            raise CredentialsError(
                f"{writers.who} can write in {place.parent}, where the {what} {path} is: chmod {writers.mode} it"
            )
        owner = place.lstat().st_uid  # the first to come, as in /tmp
        if owner not in (0, os.geteuid(), directory.st_uid):
            raise CredentialsError(
                f"the {what} {path} is user {owner}'s, and {writers.who} can put one in {place.parent}: move it"
            )


class Writers(NamedTuple):
    """Who can write beside the owner, and what chmod(1) takes it from them with."""

    who: str
    mode: str


def others_who_write(status: os.stat_result) -> Writers | None:
    """Those who can write what has this status; None if there is nobody but its owner, and root."""
    if status.st_mode & stat.S_IWOTH:
        return Writers("everybody", "o-w" if not status.st_mode & stat.S_IWGRP else "go-w")
    if status.st_mode & stat.S_IWGRP and not _is_the_owners(status):
        return Writers(f"the group {_group(status.st_gid)}", "g-w")
    return None


def _is_the_owners(status: os.stat_result) -> bool:
    """The group is the owner's own, with nobody else in it (as many systems make one for each user), or root's."""
    if status.st_gid == 0:
        return True
    try:
        owner, group = pwd.getpwuid(status.st_uid), grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    return owner.pw_gid == group.gr_gid and owner.pw_name == group.gr_name and set(group.gr_mem) <= {owner.pw_name}


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
