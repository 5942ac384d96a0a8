"""The form of the store on disk, its versions, and the way from each to the next."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Final

from api.errors import ConfigError
from jobd.storage.check import check, check_journal
from jobd.storage.records import SUMMED, sum_of

APPLICATION_ID: Final = 0x6A6F6264  # "jobd"
SUM_FUNCTION: Final = "jobd_sum"
FIRST_WITH_SUMS: Final = 3

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
    # version 3: a sum over each row
    f"""
    ALTER TABLE jobs ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;
    UPDATE jobs SET sum = {SUM_FUNCTION}({SUMMED});
    """,  # noqa: S608 # names of our own
    # version 4: jobs whose record is gone and whose output is to go too
    """
    CREATE TABLE deletions (id TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID;
    """,
    # version 5: records that say whom a job runs as. An older jobd would not read that, and run it as its own user.
    "",
)

# What SQLite says when the disk does not do what it should, and nothing is known to be wrong with the file.
_OF_THE_DISK: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)


def open_database(path: Path, *, trusted: bool = False) -> sqlite3.Connection:
    """Open the store, making it or bringing it to the present version if need be.

    The connection is to be used by one thread at a time.

    Args:
        trusted: it was looked at before, by the server that this one comes after. Then it is opened on a full or
            read-only disk too: to go on with the jobs matters more there.

    Raises:
        ConfigError: the file is not a store of ours, is damaged, cannot be used now, or was written by a newer
            version. It is never replaced or emptied.
    """
    try:
        _make(path, trusted=trusted)
        if not trusted:
            _look(path)
        connection = _connect(path)
        try:
            _prepare(connection)
        except BaseException:  # an open connection would keep the store locked
            connection.close()
            raise
    except OSError as exc:
        raise ConfigError(f"the job store {path} cannot be opened: {exc.strerror}") from exc
    except sqlite3.Error as exc:
        raise _refusal(path, exc) from exc
    return connection


def look_at(path: Path) -> None:
    """See that a store is sound, and that this version can use it; nothing of it is changed.

    Raises:
        ConfigError: as :func:`open_database`.
    """
    try:
        # Without a journal nobody uses it, and SQLite need not make one to share.
        _look(path, "" if path.with_name(path.name + "-wal").exists() else "&immutable=1")
    except OSError as exc:
        raise ConfigError(f"the job store {path} cannot be opened: {exc.strerror}") from exc
    except sqlite3.Error as exc:
        raise _refusal(path, exc) from exc


def _refusal(path: Path, exc: sqlite3.Error) -> ConfigError:
    if getattr(exc, "sqlite_errorcode", 0) & 0xFF in _OF_THE_DISK:
        return ConfigError(f"the job store {path} cannot be used now ({exc}): is the disk full, read-only or failing?")
    return ConfigError(
        f"the job store {path} cannot be read ({exc}); it was left as it is: restore it from a backup, "
        "or move it away to begin with an empty one"
    )


def _make(path: Path, *, trusted: bool) -> None:
    """Make an empty file if there is none. SQLite gives its other files the mode of this one."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o600)
    except OSError as exc:
        if not trusted or exc.errno != errno.EROFS:
            raise
        fd = os.open(path, os.O_RDONLY | flags)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is not a file")
    finally:
        os.close(fd)


def _look(path: Path, how: str = "") -> None:
    """Look at a store that is there, and change nothing of it."""
    # Read-only: the last connection to close would otherwise move the journal into the file.
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{how}", uri=True, isolation_level=None)) as db:
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (objects,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        check_journal(path)
        if not (application or version or objects):
            return
        if application != APPLICATION_ID:
            raise ConfigError(f"{path} is a database, but not a job store of jobd; choose another --state")
        if version > len(MIGRATIONS):
            raise ConfigError(
                f"the job store {path} has version {version}, and this jobd knows up to {len(MIGRATIONS)}; "
                "it was written by a newer jobd: use that one"
            )
        check(db, sums=version >= FIRST_WITH_SUMS)


def _connect(path: Path) -> sqlite3.Connection:
    connection = _connection(path)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").close()
    except sqlite3.OperationalError:
        # A full disk has no room for the index of the journal: then it is kept in memory, which nobody shares.
        connection.close()
        connection = _connection(path)
        connection.execute("PRAGMA locking_mode = EXCLUSIVE").close()
    return connection


def _connection(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.create_function(SUM_FUNCTION, -1, sum_of, deterministic=True)
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA secure_delete = ON")  # a secret that is not kept any more is not left in free space
    connection.execute("PRAGMA synchronous = FULL")  # a commit that was answered survives a power cut
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(
            f"BEGIN; {script} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number}; COMMIT;"
        )
