"""Stores that earlier versions have written are checked in, and load."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from jobd.storage.schema import APPLICATION_ID, MIGRATIONS
from jobd.storage.sqlite import open_store
from jobd.worker.job import Ended, Job, JobSpec
from jobd.worker.lifecycle import State

HERE = Path(__file__).parent
FIRST = Job(
    "00000001-0000-4000-8000-000000000000",
    JobSpec(("echo", "hi"), "first", {"A": "b"}, "/tmp"),
    State.SUCCEEDED,
    1_790_000_000_000_000_000,
    started_by="alice",
    request_id="r-1",
    worker="local",
    pid=4242,
    wait_status=0,
    started_at=1_790_000_000_100_000_000,
    ended_at=1_790_000_001_000_000_000,
    output_bytes=3,
    reason="EXITED",
    message="exited with code 0",
)


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
async def test_a_store_of_an_earlier_version_loads(tmp_path: Path, version: int) -> None:
    """With every job, its request_id, and what later versions ask of it."""
    path = tmp_path / "jobs"
    shutil.copy(HERE / f"jobs-v{version}.sqlite3", path)
    async with open_store(path) as store:
        assert await store.get(FIRST.id) == FIRST
        assert [job.id[:8] for job in await store.live()] == ["00000002"]
        assert await store.ended(10) == [Ended(FIRST.id, FIRST.ended_at or 0, 3)]
        assert await store.totals() == (1, 3)
        again = await store.insert(
            Job("00000003-0000-4000-8000-000000000000", FIRST.spec, State.PENDING, 1, request_id="r-1")
        )
        assert again == FIRST
        assert await store.deletions() == []


def test_every_version_but_the_present_one_is_checked_in() -> None:
    """A new migration comes with a file of the version before it."""
    versions = {}
    for path in HERE.glob("jobs-v*.sqlite3"):
        with sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True) as db:
            assert db.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
            (versions[path.name],) = db.execute("PRAGMA user_version").fetchone()
        db.close()
    assert versions == {f"jobs-v{number}.sqlite3": number for number in range(1, len(MIGRATIONS))}
