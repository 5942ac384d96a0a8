"""A store with a flipped byte: either all that is read is right, or jobd does not start; the file keeps every byte."""

from __future__ import annotations

import random
import shutil
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from structlog.typing import EventDict

from api.errors import ConfigError
from jobd.storage import records
from jobd.storage.schema import open_database
from jobd.storage.sqlite import open_store
from jobd.worker.errors import RecordDamagedError
from jobd.worker.job import Job, JobSpec
from jobd.worker.lifecycle import State

PAGE: Final = 4096
KINDS: Final = {2: "index interior", 5: "table interior", 10: "index leaf", 13: "table leaf"}
INSERT: Final = f"INSERT INTO jobs ({records.COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


def a_job(number: int, padding: int = 0) -> Job:
    spec = JobSpec(("echo", "ü", "x" * padding), f"job {number}", {"K": "V"}, "/tmp")
    job = Job(
        f"{number:08x}-0000-4000-8000-000000000000", spec, State.SUCCEEDED, 10**18 + number, request_id=f"r{number}"
    )
    return replace(job, started_by="alice", wait_status=0, ended_at=10**18 + number, output_bytes=number)


from_row: Final = cache(records.from_row)
"""The same bytes are the same job: those of a sound row are read once in all."""

JOBS: Final = [a_job(number, 9000 if number % 25 == 0 else number % 50) for number in range(400)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with pages of every kind: deep tables and indexes, long rows, and rows that were deleted."""
    path = tmp_path_factory.mktemp("store") / "jobs"
    with closing(open_database(path)) as db:
        db.execute("BEGIN")
        for number in range(400, 700):
            db.execute(INSERT, records.row_of(a_job(number, 3000)))
        for job in JOBS:
            db.execute(INSERT, records.row_of(job))
        db.execute("DELETE FROM jobs WHERE id >= ?", (a_job(400).id,))
        db.execute("COMMIT")
    return path


def pages_by_kind(content: bytes) -> dict[str, list[int]]:
    """Where the pages of each kind begin."""
    found: dict[str, list[int]] = {"header": [0]}
    trunk = int.from_bytes(content[32:36], "big")
    free: dict[int, str] = {}
    while trunk:
        following, count, *leaves = struct.unpack_from(">II1000I", content, (trunk - 1) * PAGE)
        free[trunk] = "freelist trunk"
        free.update(dict.fromkeys(leaves[:count], "freelist leaf"))
        trunk = following
    for number in range(2, len(content) // PAGE + 1):
        start = (number - 1) * PAGE
        kind = free.get(number) or KINDS.get(content[start], "overflow")
        found.setdefault(kind, []).append(start)
    return found


def flips(content: bytes, kind: str) -> Iterator[int]:
    """Positions in pages of a kind: the heads of pages, which say most, and any."""
    rng = random.Random(kind)
    starts = pages_by_kind(content)[kind]
    for start in rng.sample(starts, min(2, len(starts))):
        head = 108 if kind == "header" else 12
        yield from range(start, start + head)
        yield from (start + rng.randrange(head, PAGE) for _ in range(15))
        if (text := content.find(b"-4000-8000", start, start + PAGE)) >= 0:
            yield text  # in a key of an index, or in a record


def read_all(path: Path) -> None:
    """Every job, however it is looked for."""
    with closing(open_database(path)) as db:
        select = f"SELECT {records.COLUMNS} FROM jobs"
        assert [from_row(row) for row in db.execute(f"{select} ORDER BY seq")] == JOBS
        assert [from_row(row) for row in db.execute(f"{select} ORDER BY ended_at")] == JOBS
        for job in JOBS:
            for column, value in (("id", job.id), ("request_id", job.request_id)):
                [row] = db.execute(f"{select} WHERE {column} = ?", (value,))
                assert from_row(row) == job


def refused(path: Path) -> bool:
    """It is not opened: one line says so and names it, and the file is as it was. Otherwise all of it is right."""
    before = path.read_bytes()
    said = ""
    try:
        read_all(path)
    except ConfigError as exc:
        said = str(exc)
    if said:
        assert str(path) in said
        assert "\n" not in said
        assert path.read_bytes() == before
    return bool(said)


ALL_KINDS: Final = ["header", *KINDS.values(), "overflow", "freelist trunk", "freelist leaf"]


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_flipped_byte_in_a_page_of_any_kind_is_found_or_means_nothing(store: Path, tmp_path: Path, kind: str) -> None:
    """Never a record that is wrong, or missing; never a traceback; never a file that is emptied."""
    sound, path = store.read_bytes(), tmp_path / "jobs"
    found = 0
    for position in flips(sound, kind):
        flipped = bytearray(sound)
        flipped[position] ^= 1 << random.Random(position).randrange(8)
        path.write_bytes(flipped)
        found += refused(path)
        for other in tmp_path.iterdir():
            other.unlink()
    assert found or kind == "freelist leaf"  # what is free has no meaning


def test_the_store_has_pages_of_every_kind(store: Path) -> None:
    """Or the test above would not mean much."""
    assert set(pages_by_kind(store.read_bytes())) == set(ALL_KINDS)
    path = store.with_name("sound")
    shutil.copy(store, path)
    assert not refused(path)


@pytest.mark.parametrize("position", [0, 99, 100, PAGE, -1])
def test_a_store_that_was_cut_is_refused(store: Path, tmp_path: Path, position: int) -> None:
    """One without any byte is an empty one, which is what a new one is."""
    path = tmp_path / "jobs"
    path.write_bytes(store.read_bytes()[:position])
    if position == 0:
        open_database(path).close()
    else:
        assert refused(path)


def test_a_row_that_was_changed_with_sqlite_s_help_is_found(store: Path, tmp_path: Path) -> None:
    """The page is intact: only the row's own sum can tell."""
    path = tmp_path / "jobs"
    shutil.copy(store, path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE jobs SET record = replace(record, 'alice', 'malice') WHERE id = ?", (JOBS[7].id,))
    with pytest.raises(ConfigError, match="is not what was written"):
        open_database(path)


async def test_a_row_that_is_damaged_meanwhile_is_an_error_of_the_call(
    store: Path, tmp_path: Path, errors_expected: list[EventDict]
) -> None:
    """Never half a job, and the others are read as before."""
    path = tmp_path / "jobs"
    shutil.copy(store, path)
    async with open_store(path) as opened:
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("UPDATE jobs SET record = replace(record, 'alice', 'malice') WHERE id = ?", (JOBS[7].id,))
        with pytest.raises(RecordDamagedError):
            await opened.get(JOBS[7].id)
        assert await opened.get(JOBS[8].id) == JOBS[8]


# ---- the journal


def journal(directory: Path) -> tuple[bytes, bytes]:
    """The files of a store whose jobd was killed: a transaction for each of ten jobs is in the journal alone."""
    path = directory / "jobs"
    with closing(open_database(path)) as db:
        for job in JOBS[:10]:
            db.execute(INSERT, records.row_of(job))
        return path.read_bytes(), path.with_name("jobs-wal").read_bytes()


def commits(wal: bytes) -> list[int]:
    """Where each transaction ends."""
    size = PAGE + 24
    starts = range(32, len(wal), size)
    return [start + size for start in starts if int.from_bytes(wal[start + 4 : start + 8], "big")]


def test_a_flipped_byte_in_the_journal_is_found(tmp_path: Path, log_guard: list[EventDict]) -> None:
    """Anywhere before the last transaction. That one cannot be told from one that a power cut has torn: it is left out
    whole, and the log says so."""
    made = tmp_path / "made"
    made.mkdir()
    database, wal = journal(made)
    *_, last_begins, end = commits(wal)
    assert end == len(wal)
    rng = random.Random(3)
    path = tmp_path / "jobs"
    frames = range(32, len(wal), PAGE + 24)
    positions = [*range(32), *(start + offset for start in frames[:: len(frames) // 6] for offset in range(24))]
    positions += [rng.randrange(len(wal)) for _ in range(60)] + [rng.randrange(last_begins, end) for _ in range(10)]
    for position in positions:
        flipped = bytearray(wal)
        flipped[position] ^= 1 << rng.randrange(8)
        path.write_bytes(database)
        path.with_name("jobs-wal").write_bytes(flipped)
        log_guard.clear()
        got, said = [], ""
        try:
            with closing(open_database(path)) as db:
                got = [records.from_row(row) for row in db.execute(f"SELECT {records.COLUMNS} FROM jobs ORDER BY seq")]
        except ConfigError as exc:
            said = str(exc)
        if said:
            # in the last transaction, only a frame that seems to end an earlier one cannot be of a torn end
            assert position < last_begins or (position - 32) % (PAGE + 24) in range(4, 8)
            assert str(path) in said
            assert (path.read_bytes(), path.with_name("jobs-wal").read_bytes()) == (database, bytes(flipped))
        else:
            assert got == JOBS[:9], position
            assert position >= last_begins
            assert [entry["event"] for entry in log_guard] == [
                "the end of the job store's journal is not whole, and is left out"
            ]
        for name in ("jobs", "jobs-wal", "jobs-shm"):
            path.with_name(name).unlink(missing_ok=True)


def test_a_journal_that_a_power_cut_has_torn_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    """Cut anywhere: the transactions before are there, and jobd starts; a torn end is no damage."""
    database, wal = journal(tmp_path)
    ends = commits(wal)
    rng = random.Random(5)
    for cut in [*ends, *(rng.randrange(32, len(wal)) for _ in range(20))]:
        path = tmp_path / "torn"
        path.write_bytes(database)
        path.with_name("torn-wal").write_bytes(wal[:cut] + bytes(rng.randrange(2) * 5000))
        with closing(open_database(path)) as db:
            (count,) = db.execute("SELECT count(*) FROM jobs").fetchone()
        assert count == max(0, sum(end <= cut for end in ends) - (len(ends) - 10))
        for name in ("torn", "torn-wal", "torn-shm"):
            path.with_name(name).unlink(missing_ok=True)
