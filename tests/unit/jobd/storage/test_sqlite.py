"""The job store: durable, grouped, never replaced."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from structlog.typing import EventDict

from api.errors import ConfigError
from jobd.storage.directory import hold_directory
from jobd.storage.records import dump, load
from jobd.storage.schema import MIGRATIONS
from jobd.storage.sqlite import open_store
from jobd.worker.containment import Limits
from jobd.worker.errors import StoreError
from jobd.worker.isolation import Isolation
from jobd.worker.job import Job, JobSpec
from jobd.worker.lifecycle import State
from jobd.worker.stdin import StdinMode, Terminal
from tests.support.patience import patient


def a_job(number: int = 0, **fields: object) -> Job:
    spec = JobSpec(("echo", "ü", "\u2028"), "name", {"K": "V"}, "/tmp")
    job = Job(f"{number:08x}-0000-4000-8000-000000000000", spec, State.PENDING, 1_700_000_000_000_000_000 + number)
    return replace(job, **fields)  # type: ignore[arg-type] # names are checked by replace()


def test_a_job_survives_its_text() -> None:
    """Every field."""
    job = a_job(1, state=State.FAILED, wait_status=256, stopped_by="x", ended_at=5, started_at=4, output_bytes=9)
    assert load(dump(job)) == job
    given = replace(job.spec, stdin_data=bytes(range(256)))
    for spec in (given, replace(job.spec, stdin=StdinMode.PIPE), replace(job.spec, terminal=Terminal(1, 2, "vt100"))):
        assert load(dump(replace(job, spec=spec))).spec == spec


def test_what_a_job_may_use_and_what_keeps_it_survive() -> None:
    """And a text of before there was any isolation is a job without."""
    isolation = Isolation(private_tmp=True, drop_capabilities=True)
    spec = JobSpec(("true",), limits=Limits(memory=5, io_class=1), isolation=isolation)
    text = dump(a_job(1, spec=spec))
    assert load(text).spec == spec
    older = json.loads(text)
    del older["spec"]["isolation"]
    assert load(json.dumps(older)).spec == replace(spec, isolation=Isolation())


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"spec": 1}', '{"spec": {"argv": []}}'])
def test_a_damaged_text_is_an_error(text: str) -> None:
    """Never half a job."""
    with pytest.raises(ValueError):
        load(text)


async def test_jobs_are_there_after_a_restart(tmp_path: Path) -> None:
    """What insert and commit answered for is in the file."""
    async with open_store(tmp_path / "jobs") as store:
        await store.insert(a_job(1))
        await store.insert(a_job(2))
        await store.commit(a_job(2, state=State.SUCCEEDED, wait_status=0))
    async with open_store(tmp_path / "jobs") as store:
        assert await store.live() == [a_job(1)]
        assert await store.get(a_job(2).id) == a_job(2, state=State.SUCCEEDED, wait_status=0)
        assert await store.get(a_job(3).id) is None


async def test_a_noted_change_is_recorded_before_the_store_closes(tmp_path: Path) -> None:
    """Soon means: at the latest at the end."""
    async with open_store(tmp_path / "jobs") as store:
        await store.insert(a_job(1))
        store.note(a_job(1, state=State.RUNNING, pid=7))
    async with open_store(tmp_path / "jobs") as store:
        assert (await store.live())[0].pid == 7


async def test_a_noted_change_is_recorded_though_nobody_asks(tmp_path: Path) -> None:
    """Soon means soon: after a crash it would be missed."""
    async with open_store(tmp_path / "jobs") as store:
        await store.insert(a_job(1))
        store.note(a_job(1, state=State.RUNNING, pid=7))
        with closing(sqlite3.connect(tmp_path / "jobs")) as other, trio.fail_after(patient(20)):
            while other.execute("SELECT state FROM jobs").fetchone() != ("running",):
                await trio.sleep(0.01)


async def test_what_is_read_comes_after_what_was_noted(tmp_path: Path) -> None:
    """So a list by state has a job that was noted to run."""
    async with open_store(tmp_path / "jobs") as store:
        await store.insert(a_job(1))
        store.note(a_job(1, state=State.RUNNING, pid=7))
        assert len(await store.page(before=0, states=[State.RUNNING], size=9)) == 1


async def test_the_same_request_is_the_same_job(tmp_path: Path) -> None:
    """Also when both come at once; the second gets the first one's job."""
    async with open_store(tmp_path / "jobs") as store:
        got: list[Job] = []

        async def insert(number: int) -> None:
            got.append(await store.insert(a_job(number, request_id="r", started_by="alice")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(insert, 1)
            nursery.start_soon(insert, 2)
        assert got[0] == got[1]
        assert len(await store.live()) == 1


async def test_one_bad_operation_does_not_spoil_the_group(tmp_path: Path) -> None:
    """A duplicate id fails alone; its neighbours in the same commit are recorded."""
    async with open_store(tmp_path / "jobs") as store:
        outcomes: list[str] = []

        async def insert(number: int) -> None:
            try:
                await store.insert(a_job(number))
                outcomes.append("recorded")
            except StoreError:
                outcomes.append("refused")

        async with trio.open_nursery() as nursery:
            for number in (1, 1, 2, 3):
                nursery.start_soon(insert, number)
        assert sorted(outcomes) == ["recorded", "recorded", "recorded", "refused"]
        assert len(await store.live()) == 3


@pytest.mark.parametrize("count", [1, 2])
async def test_what_was_recorded_is_not_recorded_again_when_its_neighbour_fails(
    tmp_path: Path, errors_expected: list[EventDict], count: int
) -> None:
    """Whether it was alone in its commit, or undone with the others."""

    def fail(db: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("a disk that cannot be read")

    async with open_store(tmp_path / "jobs") as store:

        async def read() -> None:
            with pytest.raises(StoreError, match="cannot be read"):
                await store._ask(fail)

        goes_on = threading.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store._ask, lambda _: goes_on.wait())
            await trio.testing.wait_all_tasks_blocked()
            for number in range(count):  # these are one group
                nursery.start_soon(store.insert, a_job(number))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            goes_on.set()
        assert len(await store.live()) == count


async def test_a_full_disk_costs_what_needs_room(
    tmp_path: Path, errors_expected: list[EventDict], log_guard: list[EventDict]
) -> None:
    """A read in the same group gives its answer, and a small write may work where a large one does not. The log says
    once that it began, and once that it is over."""
    async with open_store(tmp_path / "jobs") as store:
        await store.insert(a_job(1))
        (pages,) = await store._ask(lambda db: db.execute("PRAGMA page_count").fetchone())
        await store._ask(lambda db: db.execute(f"PRAGMA max_page_count = {pages}").fetchone())
        outcomes: list[object] = []

        async def large(number: int) -> None:
            spec = JobSpec(("x" * 100_000,))
            with pytest.raises(StoreError, match="full"):
                await store.insert(a_job(number, spec=spec))
            outcomes.append("refused")

        async def read() -> None:
            outcomes.append(await store.get(a_job(1).id))

        async with trio.open_nursery() as nursery:
            for number in (2, 3):
                nursery.start_soon(large, number)
            nursery.start_soon(read)
        assert sorted(map(str, outcomes)) == sorted(["refused", "refused", str(a_job(1))])
        await store._ask(lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchone())
        await store.commit(a_job(1, pid=7))
    said = [entry["event"] for entry in log_guard]
    assert said == ["the job store cannot be written", "the job store can be written again"]


async def test_ids_are_found_by_prefix(tmp_path: Path) -> None:
    """At most two, which is enough to know that a prefix is not unique."""
    async with open_store(tmp_path / "jobs") as store:
        for number in (0x10, 0x11, 0x12, 0x20):
            await store.insert(a_job(number))
        assert len(await store.starting_with("0000001")) == 2
        assert [job.id for job in await store.starting_with("0000002")] == [a_job(0x20).id]
        assert await store.starting_with("ffff") == []


async def test_pages_are_newest_first_and_do_not_overlap(tmp_path: Path) -> None:
    """Each page begins below the last number of the one before."""
    async with open_store(tmp_path / "jobs") as store:
        for number in range(1, 8):
            await store.insert(a_job(number, state=State.FAILED if number % 2 else State.SUCCEEDED))
        first = await store.page(before=0, states=(), size=3)
        second = await store.page(before=first[-1][0], states=(), size=10)
        assert [int(job.id[:8], 16) for _, job in first + second] == [7, 6, 5, 4, 3, 2, 1]
        failed = await store.page(before=0, states=(State.FAILED,), size=10)
        assert [int(job.id[:8], 16) for _, job in failed] == [7, 5, 3, 1]


async def test_the_files_are_private(tmp_path: Path) -> None:
    """Command lines and environments are in them."""
    async with open_store(tmp_path / "jobs") as store:
        await store.insert(a_job(1))
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"jobs": 0o600, "jobs-wal": 0o600, "jobs-shm": 0o600}


async def test_an_unreadable_store_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """Never replaced, never emptied."""
    path = tmp_path / "jobs"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(ConfigError, match="left as it is"):
        async with open_store(path):
            pass
    assert path.read_bytes() == b"this is no database" * 100


async def test_a_damaged_store_is_found_at_the_start_and_not_looked_for_again(tmp_path: Path) -> None:
    """Whoever opens it first reads all of it; whoever takes over from one before need not."""
    path = tmp_path / "jobs"
    async with open_store(path) as store:
        for number in range(200):
            await store.insert(a_job(number))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * 4096)
    with pytest.raises(ConfigError, match="left as it is"):
        async with open_store(path):
            pass
    async with open_store(path, trusted=True):
        pass


async def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    """It says which version it has, and which is known here."""
    path = tmp_path / "jobs"
    async with open_store(path):
        pass
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    with pytest.raises(ConfigError, match="newer jobd"):
        async with open_store(path):
            pass


async def test_somebody_elses_database_is_refused(tmp_path: Path) -> None:
    """An application's SQLite file is not ours to migrate."""
    path = tmp_path / "jobs"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(ConfigError, match="not a job store"):
        async with open_store(path):
            pass


def test_a_state_directory_is_held_by_one(tmp_path: Path) -> None:
    """The second is told who the first is."""
    with (
        hold_directory(tmp_path / "state"),
        pytest.raises(ConfigError, match=f"pid {os.getpid()}"),
        hold_directory(tmp_path / "state"),
    ):
        pass
    with hold_directory(tmp_path / "state"):
        pass


def test_a_state_directory_is_private(tmp_path: Path) -> None:
    """Made 0700; one that others can enter is refused, with what to do."""
    with hold_directory(tmp_path / "a" / "state") as held:
        path = held.path
        assert path.stat().st_mode & 0o777 == 0o700
    path.chmod(0o755)
    with pytest.raises(ConfigError, match="chmod 700"), hold_directory(path):
        pass


def test_a_state_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """Here a file stands in its way."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be used"), hold_directory(tmp_path / "file" / "state"):
        pass
