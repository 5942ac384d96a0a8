"""The form of a backup: a tar stream (POSIX.1-2001, pax) of ordinary files, and behind them what they have to be.

    output/<two digits>/<id>.<offset>.index    of each segment of each job's output, the index first
    output/<two digits>/<id>.<offset>
    jobs.sqlite3                               the store
    MANIFEST.json                              size and SHA-256 of each, and when it was made

The manifest is last, so a stream that was cut has none, and is no backup. Everything here blocks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, cast

from api.version import VERSION
from jobd.backup.tar import CUT, BackupError, entries

STORE: Final = "jobs.sqlite3"
OUTPUT: Final = "output"
MANIFEST: Final = "MANIFEST.json"
FORM: Final = 1
"""The version of the form."""
MAX_MANIFEST: Final = 256 * 1024 * 1024
"""Bytes: enough for two million files."""
COPY: Final = 1024 * 1024
_UUID: Final = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_NAME: Final = re.compile(rf"{OUTPUT}/([0-9a-f]{{2}})/(?=\1){_UUID}\.[0-9a-f]{{16}}(\.index)?|{re.escape(STORE)}")
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass
class _Hashing:
    """A file to read or write, of which is known what went by."""

    file: BinaryIO
    size: int = 0
    sum: Any = field(default_factory=hashlib.sha256)

    def saw(self, data: bytes) -> bytes:
        """Take note of bytes that go by."""
        self.size += len(data)
        self.sum.update(data)
        return data

    @property
    def facts(self) -> list[int | str]:
        """As they stand in the manifest."""
        return [self.size, self.sum.hexdigest()]


class _Source(_Hashing):
    """A file that somebody may be cutting: it has the length that it had when it was opened, with zeros at its end."""

    def read(self, size: int) -> bytes:
        return self.saw(self.file.read(size).ljust(size, b"\0"))


class ArchiveWriter:
    """A block in which each file is added; a backup is whole when ``finish`` has returned."""

    def __init__(self, stream: BinaryIO, made_at: int) -> None:
        """
        Args:
            stream: written from its beginning to its end; need not be a file.
            made_at: nanoseconds since the epoch.
        """
        self._tar = tarfile.TarFile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, bufsize=COPY)
        self._made_at = made_at
        self._files: dict[str, list[int | str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if exc is not None and self._tar.fileobj is not None:
            with contextlib.suppress(OSError):  # it would try to write what is left when nobody expects it
                self._tar.fileobj.close()

    def add(self, name: str, path: Path) -> int:
        """Add a file; returns its size.

        Raises:
            FileNotFoundError: it is not there (any more), and nothing was written.
            OSError: it cannot be read, or the stream not be written.
        """
        with os.fdopen(os.open(path, _READ), "rb") as file:
            source = _Source(cast(BinaryIO, file))
            self._add(name, os.fstat(file.fileno()).st_size, source)
        self._files[name] = source.facts
        return source.size

    def _add(self, name: str, size: int, source: Any) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode, entry.mtime = size, 0o600, self._made_at // 10**9
        self._tar.addfile(entry, source)

    def finish(self) -> None:
        """Write the manifest, and the end."""
        facts = {"form": FORM, "jobd": VERSION, "made_at": self._made_at, "files": self._files}
        text = json.dumps(facts, indent=1).encode()
        self._add(MANIFEST, len(text), _Source(cast(BinaryIO, _Text(text))))
        self._tar.close()


class _Text:
    def __init__(self, text: bytes) -> None:
        self._text = text

    def read(self, size: int) -> bytes:
        data, self._text = self._text[:size], self._text[size:]
        return data


def extract(stream: BinaryIO, directory: Path) -> int:
    """Write the files of a backup into an empty directory, durably; returns when it was made.

    Nothing else than what a backup has is made, whatever the stream says: ordinary files of these names.

    Raises:
        BackupError: it is no backup, or not whole, or damaged.
        OSError: the files cannot be written.
    """
    found: dict[str, list[int | str]] = {}
    made_at: int | None = None
    for name, content in entries(stream):
        if made_at is not None:
            raise BackupError("something comes after its end")
        if name == MANIFEST:
            made_at = _checked(content.read(MAX_MANIFEST), found)
        elif not _NAME.fullmatch(name) or name in found:
            raise BackupError(f"{name!a} does not belong in it, or not twice")
        else:
            found[name] = _write(cast(BinaryIO, content), directory / name)
    if made_at is None:
        raise BackupError(CUT)
    for each in (directory, *(path for path in directory.rglob("*") if path.is_dir())):
        sync(each)
    return made_at


def _write(content: BinaryIO, path: Path) -> list[int | str]:
    for parent in (path.parent.parent, path.parent):
        parent.mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(path, _NEW, 0o600), "wb") as file:
        seen = _Hashing(content)
        while data := seen.saw(content.read(COPY)):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return seen.facts


def _checked(text: bytes, found: dict[str, list[int | str]]) -> int:
    """Hold what was found against the manifest; returns when the backup was made."""
    try:
        facts = json.loads(text)
        form, files, made_at = facts["form"], facts["files"], facts["made_at"]
        by = facts["jobd"]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise BackupError("its manifest cannot be read") from exc
    if form != FORM:
        raise BackupError(f"it has form {form!a}, made by jobd {by!a}, and this jobd knows form {FORM}: use that one")
    if not isinstance(files, dict) or not isinstance(made_at, int) or not 0 <= made_at < 2**63:
        raise BackupError("its manifest cannot be read")
    wrong = sorted(ascii(name)[1:-1] for name in files.keys() | found.keys() if files.get(name) != found.get(name))
    if wrong or STORE not in found:
        raise BackupError(f"it is damaged: {wrong[0] if wrong else STORE} is not what was written")
    return made_at


def sync(directory: Path) -> None:
    """Make the names in it durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
