"""``python -m tests.benchmarks.undurable MODE …``: jobd, less durable than it is delivered, to see what that costs.

MODE is ``durable`` (nothing is changed), ``unsynced`` (SQLite and the output are written and never synced), or
``in-memory`` (the job store is in memory, and output is not synced). What follows is given to jobd.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from jobd.launcher import front

SERVER: Final = "--as-server"


def _unsynced() -> None:
    from jobd.storage import schema, sqlite

    def opened(path: Path, *, trusted: bool) -> sqlite3.Connection:
        connection = schema.open_database(path, trusted=trusted)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    sqlite.open_database = opened
    os.fdatasync = lambda _: None


def _in_memory() -> None:
    from jobd.storage import schema, sqlite

    def opened(path: Path, *, trusted: bool) -> sqlite3.Connection:
        path.touch()  # the store looks whether its file is still there
        connection = schema._connection(Path(":memory:"))
        schema._prepare(connection)
        return connection

    sqlite.open_database = opened
    os.fdatasync = lambda _: None


MODES: Final[dict[str, Callable[[], None]]] = {
    "durable": lambda: None,
    "unsynced": _unsynced,
    "in-memory": _in_memory,
}


def main() -> int:
    """The front, or the server that comes of it."""
    if sys.argv[1] != SERVER:
        return front.main([SERVER, *sys.argv[1:]], "tests.benchmarks.undurable")
    from jobd import server

    MODES[sys.argv[2]]()
    return server.main(sys.argv[3:])


if __name__ == "__main__":
    sys.exit(main())
