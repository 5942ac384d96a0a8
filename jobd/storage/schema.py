"""The form of the store on disk, its versions, and the way from each to the next."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final

from api.errors import ConfigError

APPLICATION_ID: Final = 0x6A6F6264  # "jobd"

MIGRATIONS: Final[tuple[str, ...]] = (
    # version 1
    """
    CREATE TABLE jobs (
        seq        INTEGER PRIMARY KEY AUTOINCREMENT,
        id         TEXT NOT NULL UNIQUE,
        state      TEXT NOT NULL,
        principal  TEXT NOT NULL,
        request_id TEXT,
        record     TEXT NOT NULL
    );
    CREATE UNIQUE INDEX jobs_by_request ON jobs (request_id) WHERE request_id IS NOT NULL;
    CREATE INDEX jobs_by_state ON jobs (state, seq);
    """,
    # version 2: what retention asks for, without reading every record
    """
    ALTER TABLE jobs ADD COLUMN ended_at INTEGER;
    ALTER TABLE jobs ADD COLUMN output_bytes INTEGER NOT NULL DEFAULT 0;
    UPDATE jobs SET ended_at = json_extract(record, '$.ended_at'),
                    output_bytes = json_extract(record, '$.output_bytes');
    CREATE INDEX jobs_by_end ON jobs (ended_at, seq) WHERE ended_at IS NOT NULL;
    """,
)


def open_database(path: Path, *, check: bool = True) -> sqlite3.Connection:
    """Open the store, making it or bringing it to the present version if need be.

    The connection is to be used by one thread at a time.

    Args:
        check: read all of it, to see that it is not damaged. A kill cannot damage it, and the more jobs there are the
            longer this takes: a server that takes over from one before need not do it again.

    Raises:
        ConfigError: the file is not a store of ours, is damaged, or was written by a newer version. It is never
            replaced or emptied.
    """
    try:
        # SQLite gives its other files the mode of this one.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OSError as exc:
        raise ConfigError(f"the job store {path} cannot be opened: {exc.strerror}") from exc
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, path, check=check)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as exc:
        raise ConfigError(
            f"the job store {path} cannot be read ({exc}); it was left as it is: restore it from a backup, "
            "or move it away to begin with an empty one"
        ) from exc
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, *, check: bool) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (objects,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or version or objects):
        raise ConfigError(f"{path} is a database, but not a job store of jobd; choose another --state")
    if version > len(MIGRATIONS):
        raise ConfigError(
            f"the job store {path} has version {version}, and this jobd knows up to {len(MIGRATIONS)}; "
            "it was written by a newer jobd: use that one"
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a commit that was answered survives a power cut
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(
            f"BEGIN; {script} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number}; COMMIT;"
        )
    if check:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"damaged: {verdict}")
