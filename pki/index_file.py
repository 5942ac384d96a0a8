"""Where a CA's index is: beside its key, replaced whole, one writer at a time.

A new certificate is in the index, on the disk, before anybody gets it: whoever signs does so inside :func:`locked`,
writes the index, and only then hands the certificate on. A crash in between leaves an entry whose certificate nobody
has, which does no harm and can be revoked by its serial number; the reverse, a certificate that nobody can revoke,
cannot come about. The index is written under another name, synced and renamed, so a crash leaves the old one or the
new one. What cannot be read is refused, and left for its owner to look at.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography import x509

from api.errors import ConfigError
from pki.errors import DamagedIndexError
from pki.files import KEY_MODE, NewFile, is_missing, read_file, write_files
from pki.index import Entry, Index, decode, encode, owner_of

INDEX_NAME: Final = "index.jsonl"
LOCK_NAME: Final = "index.lock"

MAX_INDEX_BYTES: Final = 1 << 26
"""Room for about 150,000 certificates. A CA with more is not what this tool is for."""

LOCK_SECONDS: Final = 30.0
"""How long to wait for another jobpki. It holds the lock for milliseconds: never while it asks for a passphrase."""

_LOCK_INTERVAL: Final = 0.02


def index_path(directory: Path) -> Path:
    """The file in which the CA in ``directory`` keeps its index."""
    return directory / INDEX_NAME


def index_file(directory: Path, index: Index) -> NewFile:
    """An index's file, still to be written."""
    return NewFile(index_path(directory), encode(index), KEY_MODE)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Nobody else changes the index of the CA in ``directory`` meanwhile. The kernel takes the lock from the dead.

    Raises:
        ConfigError: the lock's file cannot be made there, or another holds it for :data:`LOCK_SECONDS`.
    """
    path = directory / LOCK_NAME
    try:
        # A file of its own: the index is replaced, so a lock on it would be one on a file that is gone. A lock on
        # the directory would do, but not over NFS.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, KEY_MODE)
    except OSError as exc:
        raise ConfigError(f"cannot lock the CA's index with {path}: {exc.strerror}") from exc
    try:
        _lock(descriptor, path)
        _sweep(directory)
        yield
    finally:
        os.close(descriptor)


def read_index(directory: Path, ca: x509.Certificate) -> Index:
    """The index of the CA in ``directory``, whose certificate is ``ca``; an empty one if there is none yet.

    Raises:
        CredentialsError: it cannot be read.
        DamagedIndexError: it is damaged, or another CA's.
    """
    path = index_path(directory)
    if is_missing(path):
        return Index(owner_of(ca))
    content = read_file(path, "index", MAX_INDEX_BYTES)
    try:
        index = decode(content)
    except ValueError as exc:
        raise DamagedIndexError(
            f"the index {path} is damaged ({exc}): it was left as it is, and nothing was signed or revoked; put a "
            f"copy of it back"
        ) from exc
    if index.ca != owner_of(ca):
        raise DamagedIndexError(f"the index {path} is that of another CA: put the right one in its place")
    return index


def write_index(directory: Path, index: Index) -> None:
    """Replace the index, durably. Called inside :func:`locked`.

    Raises:
        ConfigError: it cannot be written; the old one is still there.
    """
    write_files([index_file(directory, index)], force=True)


def record(directory: Path, ca: x509.Certificate, entry: Entry) -> None:
    """Add ``entry`` to the index of the CA in ``directory``, durably.

    Raises:
        CredentialsError: the index cannot be read, or is damaged.
        ConfigError: it cannot be locked or written.
    """
    with locked(directory):
        write_index(directory, read_index(directory, ca).with_entry(entry))


def _lock(descriptor: int, path: Path) -> None:
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            if time.monotonic() > end:
                raise ConfigError(f"another jobpki has held {path} for {LOCK_SECONDS:g} s: is it stopped?") from exc
            time.sleep(_LOCK_INTERVAL)
        except OSError as exc:
            raise ConfigError(f"cannot lock {path}: {exc.strerror}") from exc
        else:
            return


def _sweep(directory: Path) -> None:
    """Remove what a writer of the index that was killed has left. Whoever holds the lock is the only writer."""
    for left in directory.glob(f".{INDEX_NAME}.*.tmp"):
        with contextlib.suppress(OSError):  # it is in nobody's way
            left.unlink()
