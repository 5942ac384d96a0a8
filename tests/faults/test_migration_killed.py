"""A kill at any statement of a migration of the store: nothing is lost."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from jobd.storage.schema import MIGRATIONS
from jobd.storage.sqlite import open_store
from jobd.worker.job import Ended
from tests.compatibility.test_old_stores import FIRST
from tests.compatibility.test_old_stores import HERE as COMPATIBILITY

# ---- migration

MIGRATE: Final = r"""
import os, shutil, signal, sys
from pathlib import Path
from jobd.storage import schema

old, directory = Path(sys.argv[1]), Path(sys.argv[2])
prepare = schema._prepare

def killed_at(number, path):
    statements = []
    def count(statement):
        if len(statements) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        statements.append(statement)
    def traced(connection):
        connection.set_trace_callback(count)
        prepare(connection)
        connection.set_trace_callback(None)
    schema._prepare = traced
    schema.open_database(path).close()
    return statements

whole = shutil.copy(old, directory / "whole")
statements = killed_at(-1, whole)
print(*[" ".join(each.split()) for each in statements], sep="\n")
for number in range(len(statements)):
    path = shutil.copy(old, directory / str(number))
    pid = os.fork()
    if pid == 0:
        killed_at(number, path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
"""
"""Opens the store for every statement that brings it to the present version, and is killed before that one."""


@pytest.mark.parametrize("old", sorted(COMPATIBILITY.glob("jobs-v*.sqlite3")), ids=lambda path: path.stem)
async def test_a_kill_at_any_statement_of_a_migration_loses_nothing(tmp_path: Path, old: Path) -> None:
    """The next server finds what the first one would have."""
    run = subprocess.run(
        [sys.executable, "-c", MIGRATE, old, tmp_path],
        check=True,
        capture_output=True,
        text=True,
        cwd=COMPATIBILITY.parents[1],
    )
    statements = run.stdout.splitlines()
    assert statements.count("COMMIT;") == len(MIGRATIONS) - int(old.stem.rpartition("v")[2]), statements
    for number in range(len(statements)):
        async with open_store(tmp_path / str(number)) as store:
            assert await store.get(FIRST.id) == FIRST
            assert [job.id[:8] for job in await store.live()] == ["00000002"]
            assert await store.ended(10) == [Ended(FIRST.id, FIRST.ended_at or 0, 3)]
        assert dump_of(tmp_path / str(number)) == dump_of(tmp_path / "whole")


def dump_of(path: Path) -> list[str]:
    """The database as text, its version included."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return [*db.iterdump(), str(db.execute("PRAGMA user_version").fetchone())]
