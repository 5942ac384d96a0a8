"""The state directory when somebody has been at it, and the lock file when it is not what it should be."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from api.errors import ConfigError
from jobd.storage.directory import hold_directory
from jobd.storage.schema import open_database
from jobd.storage.sqlite import open_store
from jobd.worker.errors import StoreError
from tests.support.disk import fill, needs_root, small_disk
from tests.unit.jobd.storage.test_damage import a_job


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    return path


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


LIES: dict[str, Callable[[Path], object]] = {
    "of a living process": lambda path: path.write_text(f"{os.getppid()}\n"),
    "of no process": lambda path: path.write_text("999999999\n"),
    "garbage": lambda path: path.write_bytes(b"\x1b[2J\n\0 not a pid"),
    "ten megabytes of garbage": lambda path: path.write_bytes(b"\n\xff" * 5_000_000),
    "empty": lambda path: path.touch(),
}
NO_FILES: dict[str, Callable[[Path], object]] = {
    "a link to nothing": lambda path: path.symlink_to("/no/such/file"),
    "a link to a file": lambda path: path.symlink_to(path.parent.parent / "victim"),
    "a directory": lambda path: path.mkdir(),
    "a fifo": lambda path: os.mkfifo(path),
    "a socket": _socket,
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_lock_file_that_lies_keeps_nobody_out(state: Path, lie: Callable[[Path], object]) -> None:
    """What it says is for people; the lock itself is the kernel's, so none is stale. Then it says the truth."""
    lie(state / "lock")
    with hold_directory(state):
        assert (state / "lock").read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_lie_in_a_lock_that_is_held_is_not_repeated(state: Path, lie: Callable[[Path], object]) -> None:
    """The refusal is one printable line, whatever stands there."""
    with hold_directory(state):
        lie(state / "lock")
        with (
            pytest.raises(ConfigError, match=r"is held by another jobd \(pid (\d+|unknown)\);") as caught,
            hold_directory(state),
        ):
            pass
        assert str(caught.value).isprintable()


def use(state: Path, name: str) -> None:
    with hold_directory(state):
        if name != "lock":
            open_database(state / name).close()


@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES.keys())
@pytest.mark.parametrize("name", ["lock", "jobs.sqlite3"])
def test_what_is_no_file_is_not_waited_for_nor_written_into(
    state: Path, name: str, make: Callable[[Path], object]
) -> None:
    """It is named and left as it is."""
    victim = state.parent / "victim"
    victim.write_text("precious")
    make(state / name)
    with pytest.raises(ConfigError, match=str(state / name)):
        use(state, name)
    assert victim.read_text() == "precious"
    assert (state / name).is_symlink() or (state / name).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it gives a directory to another user")
def test_a_directory_of_somebody_else_is_refused(state: Path) -> None:
    """With who that is; root could write there, and would then own files in it."""
    os.chown(state, 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to uid 12345"), hold_directory(state):
        pass
    assert list(state.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="needs not to be root, who can write everywhere")
def test_a_directory_without_the_right_to_write_is_refused(state: Path) -> None:
    """In one line that says so."""
    state.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot be written: Permission denied"), hold_directory(state):
        pass


@needs_root
def test_a_read_only_disk_is_refused_at_the_start(tmp_path: Path) -> None:
    """Nothing could be promised there."""
    with (
        small_disk(tmp_path / "state", options="ro") as disk,
        pytest.raises(ConfigError, match="cannot be written: Read-only file system"),
        hold_directory(disk),
    ):
        pass


@needs_root
def test_the_lock_needs_no_room(tmp_path: Path) -> None:
    """On a full disk its text is missing; it holds all the same."""
    with small_disk(tmp_path / "state") as disk:
        fill(disk)
        with hold_directory(disk), pytest.raises(ConfigError, match=r"\(pid unknown\)"), hold_directory(disk):
            pass


def test_the_next_server_does_not_begin_anew_in_another_directory(state: Path) -> None:
    """Removed or replaced while jobs run: they are not in the new one; when it is put back, all goes on."""
    with hold_directory(state) as held:
        for replaced in (False, True):
            kept = os.dup(held.lock)
            state.rename(state.with_name("away"))
            if replaced:
                state.mkdir(mode=0o700)
                (state / "lock").touch()
            with pytest.raises(ConfigError, match="put it back"), hold_directory(state, kept):
                pass
            if replaced:
                (state / "lock").unlink()
                state.rmdir()
            assert not state.exists()
            state.with_name("away").rename(state)
        with hold_directory(state, os.dup(held.lock)):
            pass


async def test_a_store_that_was_taken_away_takes_no_records(state: Path, errors_expected: list[object]) -> None:
    """SQLite would go on writing into the deleted file. Reading goes on; put back, so does writing."""
    path = state / "jobs"
    async with open_store(path) as store:
        await store.insert(a_job(1))
        path.rename(state / "away")
        with pytest.raises(StoreError, match="deleted or replaced"):
            await store.insert(a_job(2))
        path.touch()
        with pytest.raises(StoreError, match="deleted or replaced"):
            await store.insert(a_job(2))
        assert await store.get(a_job(1).id) == a_job(1)
        (state / "away").rename(path)
        assert await store.insert(a_job(2)) == a_job(2)
