"""Jobs that have ended and were asked for lately: answered from memory, and never with what is no longer so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from jobd.broker.registry import Registry
from jobd.storage.lately import LARGEST, MOST, Lately
from jobd.storage.sqlite import SqliteStore, open_store
from jobd.worker.errors import InvalidIdError
from jobd.worker.job import Job, JobSpec
from jobd.worker.lifecycle import State


def ended_job(number: int = 0, *, size: int = 0) -> Job:
    spec = JobSpec(("echo", "x" * size))
    return Job(f"{number:08x}-0000-4000-8000-000000000000", spec, State.SUCCEEDED, 1, started_at=2, ended_at=3)


async def asked(store: SqliteStore, job: Job) -> Job | None:
    """What is remembered, after the job was asked for."""
    await store.get(job.id)
    return store.lately(job.id)


async def test_a_job_that_has_ended_is_remembered_once_it_was_asked_for(tmp_path: Path) -> None:
    """The same object each time; one that runs, or is large, is not."""
    async with open_store(tmp_path / "jobs") as store:
        job, large = ended_job(1), ended_job(3, size=LARGEST)
        runs = replace(ended_job(2), state=State.RUNNING, ended_at=None)
        for each in (job, runs, large):
            await store.insert(each)
            assert store.lately(each.id) is None
        assert await asked(store, job) == job
        assert store.lately(job.id) is store.lately(job.id)
        assert await asked(store, runs) is None
        assert await asked(store, large) is None
        assert await store.starting_with(job.id[:8]) == [job]


async def test_no_more_than_a_few_are(tmp_path: Path) -> None:
    """The ones that nobody has asked for longest make room."""
    async with open_store(tmp_path / "jobs") as store:
        jobs = [ended_job(number) for number in range(MOST + 3)]
        for job in jobs:
            await store.insert(job)
            await asked(store, job)
        assert [store.lately(job.id) is None for job in jobs] == [True] * 3 + [False] * MOST


@pytest.mark.parametrize("again", ["from memory", "by a prefix"])
def test_one_that_is_asked_for_again_stays(again: str) -> None:
    """However many others are asked for once."""
    lately, job = Lately(), ended_job(1)
    lately.note(job, 1, 0)
    for number in range(2, 2 * MOST):
        if again == "from memory":
            assert lately.get(job.id) is job
        else:
            lately.note(job, 1, 0)
        lately.note(ended_job(number), 1, 0)
    assert lately.get(job.id) is job


@pytest.mark.parametrize("how", ["delete", "commit", "note"])
async def test_what_changes_is_forgotten_before_it_changes(tmp_path: Path, how: str) -> None:
    """A job that was deleted is gone at once, and what is written of one is what is read next."""
    async with open_store(tmp_path / "jobs") as store:
        job = ended_job(1)
        await store.insert(job)
        assert await asked(store, job)
        other = replace(job, output_bytes=7)
        if how == "note":
            store.note(other)
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(*((store.delete, job.id) if how == "delete" else (store.commit, other)))
                await trio.lowlevel.checkpoint()
        assert store.lately(job.id) is None
        assert await store.get(job.id) == (None if how == "delete" else other)
        assert store.lately(job.id) == (None if how == "delete" else other)


def test_what_was_read_while_it_changed_is_not_remembered() -> None:
    """The read was asked for before the change, and its answer comes after that was asked for."""
    lately, job = Lately(), ended_job(1)
    begun = lately.changes
    lately.changed(job.id)
    lately.note(job, 1, begun)
    assert lately.get(job.id) is None
    lately.note(job, 1, lately.changes)
    assert lately.get(job.id) is job


async def test_a_query_is_answered_at_once_by_what_is_in_memory(tmp_path: Path) -> None:
    """By its whole id, however it is written; a prefix has to be looked for; what is no id is refused as ever."""
    async with open_store(tmp_path / "jobs") as store:
        registry = Registry(store)
        job = ended_job(10)
        await store.insert(job)
        assert registry.at_once(job.id) is None
        await registry.find(job.id)
        for reference in (job.id, job.id.upper(), job.id.replace("-", "")):
            found = registry.at_once(reference)
            assert found
            assert found.present() is store.lately(job.id)
        assert registry.at_once(job.id[:8]) is None
        with pytest.raises(InvalidIdError):
            registry.at_once("no id")
