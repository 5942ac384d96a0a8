"""How the files are written: all or none, never over something, keys for their owner only.

Every file is first written whole, and synced, under a temporary name beside its target, which nobody but the owner
can open if it is a key. Only when all are there do they get their names, in one step each: by a hard link, which
fails if the name is taken, or with ``force`` by a rename, which replaces a file or link but follows none.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from api.errors import ConfigError, CredentialsError
from pki.errors import ExistingFilesError

KEY_MODE: Final = 0o600
CA_KEY_MODE: Final = 0o400
PUBLIC_MODE: Final = 0o644
DIRECTORY_MODE: Final = 0o700

MAX_STEM_BYTES: Final = 200
"""A file name has at most 255 bytes; the rest is room for the ending and the temporary name."""

MAX_FILE_BYTES: Final = 1 << 20
"""No certificate, key or request comes near this; it keeps ``show /dev/zero`` from filling the memory."""


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to be made.

    Attributes:
        path: where.
        content: all of it.
        mode: its permissions, whatever the umask.
        owner: user and group, if not those of this process.
    """

    path: Path
    content: bytes = field(repr=False)
    mode: int = PUBLIC_MODE
    owner: tuple[int, int] | None = None


def check_stem(stem: str) -> str:
    """Return ``stem`` if ``<stem>.key`` and its like are safe file names: one path component, not hidden.

    Raises:
        ConfigError: it is not, or it is ``ca``, whose files are the authority's own.
    """
    if stem == "ca":
        raise ConfigError("the file name 'ca' is the authority's own: choose another with --out STEM")
    letters = all(char.isalnum() or char in "._-@+" for char in stem)
    if not letters or not stem[:1].isalnum() or len(os.fsencode(stem)) > MAX_STEM_BYTES:
        raise ConfigError(
            f"{stem!a} cannot be used as a file name here (letters, digits and . _ - @ + only, starting with a "
            f"letter or digit, at most {MAX_STEM_BYTES} bytes): choose one with --out STEM"
        )
    return stem


def check_targets(paths: Sequence[Path], *, force: bool) -> None:
    """See that every one of ``paths`` can be made.

    Raises:
        ExistingFilesError: one or more are there and ``force`` is off.
        ConfigError: one is a directory, or their directory cannot be looked into.
    """
    try:
        taken = [path for path in paths if os.path.lexists(path)]
        directories = [path for path in taken if path.is_dir() and not path.is_symlink()]
    except OSError as exc:
        raise ConfigError(f"cannot look at {exc.filename}: {exc.strerror}") from exc
    if directories:
        raise ConfigError(f"{directories[0]} is a directory: move it away, or choose another name")
    if taken and not force:
        names = ", ".join(map(str, taken))
        raise ExistingFilesError(f"there already: {names}; nothing was changed (--force replaces existing files)")


def write_files(files: Sequence[NewFile], *, force: bool = False) -> None:
    """Make all of ``files``, and the directories that they need.

    Without ``force`` either all are made or none. With it, a crash between two renames can leave the new one of
    two files beside the old other; each is whole all the same.

    Raises:
        ExistingFilesError: a target is there already and ``force`` is off.
        ConfigError: a file or directory cannot be made.
    """
    check_targets([file.path for file in files], force=force)
    directories = dict.fromkeys(file.path.parent for file in files)
    try:
        for directory in directories:
            make_directory(directory)
        with _staged(files) as temporaries:
            _publish(files, temporaries, force=force)
        for directory in directories:
            _sync_directory(directory)
    except FileExistsError as exc:
        raise ExistingFilesError(f"{exc.filename2 or exc.filename} was made by somebody else meanwhile") from exc
    except OSError as exc:
        raise ConfigError(f"cannot write {exc.filename2 or exc.filename}: {exc.strerror}") from exc


def make_directory(directory: Path) -> None:
    """Make ``directory`` and the parents that it lacks, for their owner only; what is there is left as it is.

    Raises:
        ConfigError: something else has that name.
        OSError: it cannot be made.
    """
    if directory.is_dir():
        return
    if os.path.lexists(directory):
        raise ConfigError(f"{directory} is not a directory: name another, or move the file away")
    if directory.parent != directory:
        make_directory(directory.parent)
    directory.mkdir(mode=DIRECTORY_MODE)
    directory.chmod(DIRECTORY_MODE)  # mkdir's own mode is cut down by the umask


def is_missing(path: Path) -> bool:
    """Whether there is nothing at ``path``. What is there and cannot be looked at is not missing."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # something is there; reading it will say what is wrong
    return False


def read_file(path: Path, what: str, limit: int = MAX_FILE_BYTES) -> bytes:
    """The content of ``path``, of at most ``limit`` bytes; ``what`` is what the message calls it.

    Raises:
        CredentialsError: it cannot be read, or is far too long.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as exc:
        raise CredentialsError(f"cannot read the {what} {path}: {exc.strerror}") from exc
    if len(content) > limit:
        raise CredentialsError(f"{path} is longer than {limit} bytes: it is not a {what}")
    return content


def open_to_others(path: Path) -> bool:
    """Whether anybody but the owner may read or write the file.

    Raises:
        CredentialsError: it cannot be looked at.
    """
    try:
        return bool(path.stat().st_mode & 0o066)
    except OSError as exc:
        raise CredentialsError(f"cannot look at {path}: {exc.strerror}") from exc


@contextlib.contextmanager
def _staged(files: Sequence[NewFile]) -> Iterator[list[Path]]:
    """All files under temporary names, which are gone afterwards."""
    temporaries = [file.path.with_name(f".{file.path.name}.{secrets.token_hex(4)}.tmp") for file in files]
    try:
        for file, temporary in zip(files, temporaries, strict=True):
            _write_new(temporary, file)
        yield temporaries
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def _write_new(path: Path, new: NewFile) -> None:
    # The mode is given at open, so a key is never readable by others, not even for a moment.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, new.mode)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - it is a descriptor, not a path
        if new.owner is not None:
            os.fchown(file.fileno(), *new.owner)
        os.fchmod(file.fileno(), new.mode)  # the umask may have taken bits away
        file.write(new.content)
        file.flush()
        os.fsync(file.fileno())


def _publish(files: Sequence[NewFile], temporaries: Sequence[Path], *, force: bool) -> None:
    if force:
        for file, temporary in zip(files, temporaries, strict=True):
            temporary.replace(file.path)
        return
    made: list[Path] = []
    try:
        for file, temporary in zip(files, temporaries, strict=True):
            os.link(temporary, file.path, follow_symlinks=False)
            made.append(file.path)
    except BaseException:  # Ctrl-C too: all of the files, or none
        for path in made:
            path.unlink(missing_ok=True)
        raise


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
