"""How files are written."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from api.errors import ConfigError, CredentialsError
from pki.authority import Authority
from pki.errors import ExistingFilesError
from pki.files import KEY_MODE, MAX_FILE_BYTES, NewFile, check_stem, open_to_others, read_file, write_files


@pytest.fixture(params=[0o000, 0o077, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """A umask, for the time of a test; ``tmp_path`` is made before, or it would be cut down too."""
    assert tmp_path.is_dir()
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_modes(umask: int, tmp_path: Path, now: datetime) -> None:
    """Keys are for their owner, the CA's key is not even writable, the rest is public, whatever the umask."""
    directory = tmp_path / "new" / "ca"
    ca = Authority.create(directory, now=now)
    files = ca.issue_server(directory, ["localhost"], now=now)
    assert _mode(directory) == _mode(directory.parent) == 0o700
    assert (_mode(ca.key_path), _mode(ca.certificate_path)) == (0o400, 0o644)
    assert (_mode(files.key), _mode(files.csr), _mode(files.certificate)) == (0o600, 0o644, 0o644)


def test_nothing_overwritten(ca: Authority, tmp_path: Path, now: datetime) -> None:
    """If one target is there, none is made, and the message names it."""
    (tmp_path / "alice.crt").write_text("mine")
    with pytest.raises(ExistingFilesError, match=r"alice\.crt; nothing was changed \(--force"):
        ca.issue_client(tmp_path, "alice", [], now=now)
    assert (tmp_path / "alice.crt").read_text() == "mine"
    assert [path.name for path in tmp_path.glob("*alice*")] == ["alice.crt"]


def test_ca_not_overwritten(ca: Authority, now: datetime) -> None:
    """A second CA in the same place is refused; with force it replaces the first."""
    with pytest.raises(ExistingFilesError):
        Authority.create(ca.directory, now=now)
    assert Authority.load(ca.directory).certificate == ca.certificate
    assert Authority.create(ca.directory, now=now, force=True).certificate != ca.certificate
    assert Authority.load(ca.directory).certificate != ca.certificate
    assert _mode(ca.key_path) == 0o400


def test_force_replaces_a_link_not_its_target(tmp_path: Path) -> None:
    """Force replaces a symbolic link and leaves alone what it points to."""
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "a.key").symlink_to(tmp_path / "precious")
    write_files([NewFile(tmp_path / "a.key", b"new", KEY_MODE)], force=True)
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "a.key").is_symlink()


def test_dangling_link_counts_as_there(tmp_path: Path) -> None:
    """A link to nothing is not written through."""
    (tmp_path / "a.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ExistingFilesError):
        write_files([NewFile(tmp_path / "a.key", b"new", KEY_MODE)])
    assert not (tmp_path / "elsewhere").exists()


def test_directory_in_the_way(tmp_path: Path) -> None:
    """Not even force replaces a directory, and nothing else is written."""
    (tmp_path / "b").mkdir()
    with pytest.raises(ConfigError, match="is a directory"):
        write_files([NewFile(tmp_path / "a", b"1"), NewFile(tmp_path / "b", b"2")], force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    """If the second file cannot be made, the first is not there either."""
    files = [NewFile(tmp_path / "a", b"1"), NewFile(tmp_path / ("b" * 255), b"2")]  # no room for a temporary name
    with pytest.raises(ConfigError, match="cannot write"):
        write_files(files)
    assert not list(tmp_path.iterdir())


def test_lost_race_leaves_nothing(tmp_path: Path) -> None:
    """If a name is taken between the check and the link, what was linked before is taken back."""
    files = [NewFile(tmp_path / "a", b"1"), NewFile(tmp_path / "a", b"2")]  # the first takes the second's name
    with pytest.raises(ExistingFilesError, match="meanwhile"):
        write_files(files)
    assert not list(tmp_path.iterdir())


def test_file_for_a_directory(tmp_path: Path) -> None:
    """A file in the place of the directory is told."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is not a directory"):
        write_files([NewFile(tmp_path / "file" / "a", b"1")])


@pytest.mark.parametrize("stem", ["alice", "alice@example.com", "a.b-c_d+e", "Zoë", "1"])
def test_stems(stem: str) -> None:
    """Plain names are file names."""
    assert check_stem(stem) == stem


@pytest.mark.parametrize("stem", ["", ".", "..", "../x", "a/b", "/etc/x", ".hidden", "-rf", "a b", "a\0", "a" * 201])
def test_unsafe_stems(stem: str) -> None:
    """A stem that could leave the directory, hide, or look like a flag is refused; the message says what to do."""
    with pytest.raises(ConfigError, match="--out STEM"):
        check_stem(stem)


def test_ca_is_no_stem() -> None:
    """No leaf can take the place of the CA's own files, not even with force."""
    with pytest.raises(ConfigError, match="authority's own"):
        check_stem("ca")


def test_read_is_limited(tmp_path: Path) -> None:
    """A file that is far too long is refused without reading it all."""
    (tmp_path / "big").write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    with pytest.raises(CredentialsError, match="longer than"):
        read_file(tmp_path / "big", "key")


@pytest.mark.parametrize(("mode", "expected"), [(0o400, False), (0o600, False), (0o640, True), (0o604, True)])
def test_open_to_others(tmp_path: Path, mode: int, expected: bool) -> None:
    """A file is open to others if its group or anybody may read it."""
    path = tmp_path / "key"
    path.touch()
    path.chmod(mode)
    assert open_to_others(path) is expected
