"""The ends that an earlier server had recorded are acknowledged to the launcher, which forgets them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from jobd.daemon import _acknowledge
from jobd.launcher.link import LauncherLink
from jobd.storage.sqlite import open_store
from jobd.worker.job import Job, JobSpec
from jobd.worker.lifecycle import State

RUNNING, ENDED, DELETED = (f"0000000{number}-0000-4000-8000-000000000000" for number in (1, 2, 3))


class Remembering:
    """A link to a launcher that has these jobs."""

    def __init__(self, *job_ids: str) -> None:
        self.adopted = dict.fromkeys(job_ids)

    def release_adopted(self, job_id: str) -> None:
        del self.adopted[job_id]


async def test_what_has_ended_is_acknowledged_and_what_was_deleted_since(tmp_path: Path) -> None:
    """Retention may be faster: the launcher must not remember for ever what nobody else does."""
    link = Remembering(RUNNING, ENDED, DELETED)
    async with open_store(tmp_path / "jobs") as store:
        await store.insert(Job(RUNNING, JobSpec(("true",)), State.RUNNING, 1))
        await store.insert(Job(ENDED, JobSpec(("true",)), State.SUCCEEDED, 1, ended_at=2))
        await _acknowledge(cast(LauncherLink, link), store)
    assert list(link.adopted) == [RUNNING]
