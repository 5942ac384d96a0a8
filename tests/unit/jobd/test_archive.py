"""The form of a backup: what is whole comes back as it was; anything else is refused, and nothing strange is made."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from jobd.backup.archive import MANIFEST, STORE, ArchiveWriter, extract
from jobd.backup.tar import BackupError, entries

JOB = "0123abcd-0000-4000-8000-000000000000"
LOG = f"output/01/{JOB}.{0:016x}"
FILES = {f"{LOG}.index": b"i" * 80, LOG: bytes(range(256)) * 50, STORE: b"SQLite format 3\0" * 64}
MADE_AT = 1_700_000_000 * 10**9


def archive(tmp_path: Path) -> bytes:
    """A backup of FILES."""
    stream = io.BytesIO()
    writer = ArchiveWriter(stream, MADE_AT)
    for name, content in FILES.items():
        (tmp_path / "file").write_bytes(content)
        assert writer.add(name, tmp_path / "file") == len(content)
    writer.finish()
    return stream.getvalue()


def refused(data: bytes, into: Path) -> str:
    """Why it is refused."""
    into.mkdir()
    with pytest.raises(BackupError) as caught:
        extract(io.BytesIO(data), into)
    return str(caught.value)


def files_in(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    """Under its name, for its owner alone, with the time at which it was made."""
    (tmp_path / "into").mkdir()
    assert extract(io.BytesIO(archive(tmp_path)), tmp_path / "into") == MADE_AT
    assert files_in(tmp_path / "into") == FILES
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "into").rglob("*") if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "into").rglob("*") if path.is_dir()} == {0o700}


def test_a_file_that_is_cut_meanwhile_keeps_its_length(tmp_path: Path) -> None:
    """With zeros in place of what is gone, which no index vouches for; the backup goes on."""
    path = tmp_path / "growing"
    path.write_bytes(b"x" * 1000)
    stream = io.BytesIO()
    writer = ArchiveWriter(stream, MADE_AT)
    addfile = writer._tar.addfile

    def cut_first(entry: tarfile.TarInfo, source: io.BytesIO) -> None:
        with path.open("r+b") as file:
            file.truncate(10)
        addfile(entry, source)

    writer._tar.addfile = cut_first  # type: ignore[method-assign] # at the moment in between
    assert writer.add(STORE, path) == 1000
    writer._tar.addfile = addfile  # type: ignore[method-assign] # as it was
    writer.finish()
    (tmp_path / "into").mkdir()
    extract(io.BytesIO(stream.getvalue()), tmp_path / "into")
    assert files_in(tmp_path / "into") == {STORE: b"x" * 10 + bytes(990)}


def test_what_was_cut_anywhere_is_refused(tmp_path: Path) -> None:
    """Its end is what says that it is whole; nothing is left out silently."""
    whole = archive(tmp_path)
    for number, size in enumerate(range(0, len(whole) - 2 * tarfile.BLOCKSIZE - tarfile.RECORDSIZE, 509)):
        assert "whole" in refused(whole[:size], tmp_path / f"{number}")


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_found(tmp_path: Path, name: str) -> None:
    """In any file; and it is said in which."""
    data = bytearray(archive(tmp_path))
    data[data.index(FILES[name][:64]) + 40] ^= 1
    assert refused(bytes(data), tmp_path / "into") == f"it is damaged: {name} is not what was written"


def tar_of(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for entry, content in entries:
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def of_type(kind: bytes) -> Callable[[str], tuple[tarfile.TarInfo, bytes]]:
    def make(name: str) -> tuple[tarfile.TarInfo, bytes]:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, "/etc/passwd"
        return entry, b""

    return make


KINDS = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)


@pytest.mark.parametrize("kind", KINDS)
def test_only_files_are_made(tmp_path: Path, kind: bytes) -> None:
    """No link, directory, pipe or device, under whatever name."""
    assert "is not a file" in refused(tar_of(of_type(kind)(STORE)), tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "/etc/cron.d/x",
        "../x",
        f"output/../{STORE}",
        "lock",
        "output/01/x",
        LOG + ".x",
        f"output/02/{JOB}.{0:016x}",
        "x",
    ],
)
def test_only_names_of_a_backup_are_made(tmp_path: Path, name: str) -> None:
    """Wherever others point to."""
    assert "does not belong in it" in refused(tar_of((tarfile.TarInfo(name), b"x")), tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"{",
        b"[]",
        b'{"form": 1}',
        b"\xff",
        b'{"form": 1, "files": 5, "made_at": 5, "jobd": ""}',
        b'{"form": 1, "files": {}, "made_at": 1e300, "jobd": ""}',
        b'{"form": 1, "files": {}, "made_at": %d, "jobd": ""}' % 10**30,
        b"[" * 100_000,
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(tmp_path: Path, manifest: bytes) -> None:
    """In words."""
    data = tar_of((tarfile.TarInfo(STORE), b"x"), (tarfile.TarInfo(MANIFEST), manifest))
    assert refused(data, tmp_path / "into") == "its manifest cannot be read"


def test_what_a_manifest_says_is_shown_as_text(tmp_path: Path) -> None:
    """And does nothing to the terminal."""
    manifest = json.dumps({"form": 1, "files": {"\x1b[2J": [1, ""]}, "made_at": 1, "jobd": "1"}).encode()
    data = tar_of((tarfile.TarInfo(STORE), b"x"), (tarfile.TarInfo(MANIFEST), manifest))
    assert refused(data, tmp_path / "into") == r"it is damaged: \x1b[2J is not what was written"


def extended(content: bytes = b"", **headers: str) -> bytes:
    """A store with an extended header."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        entry = tarfile.TarInfo(STORE)
        entry.size, entry.pax_headers = len(content), {name.replace("_", "."): text for name, text in headers.items()}
        tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def old_gnu(kind: bytes) -> bytes:
    """A header of that kind, with a gigabyte to come."""
    entry = tarfile.TarInfo(STORE)
    entry.type, entry.size = kind, 2**30
    return entry.tobuf(tarfile.GNU_FORMAT) + bytes(4096)


@pytest.mark.parametrize(
    "data",
    [
        extended(GNU_sparse_map="0,0", GNU_sparse_size=str(2**40)),
        extended(GNU_sparse_map="x,y", GNU_sparse_size="5"),
        extended(b"0\n".ljust(512), GNU_sparse_major="1", GNU_sparse_minor="0", GNU_sparse_realsize=str(2**40)),
        extended(size="-1024"),
        extended(size="1" * 4000),
        extended(comment="x" * 10_000),
        extended(path="/etc/passwd"),
        extended(comment="x")[:1024] * 3000,
        *map(old_gnu, (tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE, tarfile.XHDTYPE)),
    ],
    ids=lambda data: str(len(data)),
)
def test_what_no_backup_has_is_refused_before_it_is_read(tmp_path: Path, data: bytes) -> None:
    """A few bytes fill no disk, and no memory; none of it ends in a traceback."""
    assert refused(data, tmp_path / "into")
    assert files_in(tmp_path / "into") in ({}, {STORE: b""})


def test_a_file_can_be_larger_than_the_plain_form_says(tmp_path: Path) -> None:
    """Its size is in an extended header then."""
    with_size = extended(b"x" * 700, size="700")
    assert with_size[156:157] == tarfile.XHDTYPE
    assert [(name, content.read(1000)) for name, content in entries(io.BytesIO(with_size))] == [(STORE, b"x" * 700)]


def test_a_later_form_names_who_made_it(tmp_path: Path) -> None:
    """Whoever reads it knows which jobd to use."""
    manifest = json.dumps({"form": 2, "files": {}, "made_at": 1, "jobd": "9.9"}).encode()
    assert "made by jobd '9.9'" in refused(tar_of((tarfile.TarInfo(MANIFEST), manifest)), tmp_path / "into")


def test_nothing_comes_twice_or_after_the_end(tmp_path: Path) -> None:
    """A second file of the same name would be the one that counts for some readers, and not for others."""
    twice = tar_of((tarfile.TarInfo(STORE), b"x"), (tarfile.TarInfo(STORE), b"x"))
    assert "not twice" in refused(twice, tmp_path / "one")
    with tarfile.open(fileobj=io.BytesIO(archive(tmp_path))) as tar:
        entries = [(each, tar.extractfile(each)) for each in tar]
        parts = [(entry, content.read()) for entry, content in entries if content]
    assert "after its end" in refused(tar_of(*parts, (tarfile.TarInfo("x"), b"x")), tmp_path / "two")
