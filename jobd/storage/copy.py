"""A copy of the store for somebody else: as it is between two transactions, and one file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from jobd.storage.records import COLUMNS, from_row
from jobd.storage.schema import open_database
from jobd.worker.job import Job

PAGE: Final = 256
"""Jobs that are read at a time."""
_JOBS: Final = f"SELECT seq, {COLUMNS} FROM jobs WHERE seq > ? ORDER BY seq LIMIT {PAGE}"  # noqa: S608 # names of our own


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A store that a jobd may be using.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)) as db:
        yield db


@contextmanager
def copied(source: sqlite3.Connection, to: Path) -> Iterator[sqlite3.Connection]:
    """Copy a store to a file that is not there yet, look at the copy, and let it be changed, in one transaction.

    Whoever writes the store meanwhile is not held up (https://sqlite.org/backup.html).

    Raises:
        ConfigError: it is no store of ours, or damaged.
        sqlite3.Error: it cannot be read, or the copy not be written.
    """
    to.touch(mode=0o600, exist_ok=False)
    with closing(sqlite3.connect(to)) as target:
        source.backup(target)
    with closing(open_database(to)) as db:
        db.execute("BEGIN")
        yield db
        db.execute("COMMIT")
        db.execute("PRAGMA journal_mode = DELETE").close()


def jobs_of(db: sqlite3.Connection) -> Iterator[Job]:
    """All jobs, in their order; each may be changed or deleted when it is given.

    Raises:
        ValueError: one is not what was written.
    """
    last = 0
    while rows := db.execute(_JOBS, (last,)).fetchall():
        for seq, *row in rows:
            yield from_row(row)
            last = seq


def has(db: sqlite3.Connection, job_id: str) -> bool:
    """There is a job with this id, now."""
    return db.execute("SELECT 1 FROM jobs WHERE id = ?", (job_id,)).fetchone() is not None
