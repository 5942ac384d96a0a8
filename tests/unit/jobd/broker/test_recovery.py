"""What a broker finds at its start."""

from __future__ import annotations

from pathlib import Path

import trio

from jobd.broker.journal import PatientJournal
from jobd.broker.recovery import open_broker
from jobd.launcher.local import LocalLauncher
from jobd.limits.walk import Walk
from jobd.output.log import LogStore
from jobd.pools.local import open_local_pool
from jobd.storage.sqlite import open_store
from jobd.worker.job import Job, Reason
from jobd.worker.lifecycle import State
from jobd.worker.supervisor import Timings
from tests.support.broker import SLEEP
from tests.support.patience import patient


class Together(LocalLauncher):
    """Finds nothing of any job, before it is asked for so many."""

    def __init__(self, count: int) -> None:
        super().__init__(Walk())
        self._missing = count
        self._all = trio.Event()

    async def find_outlived(self, job_id: str, pid: int, launcher: str) -> None:
        self._missing -= 1
        if not self._missing:
            self._all.set()
        await self._all.wait()


async def test_what_may_have_outlived_its_launcher_is_looked_for_together(tmp_path: Path) -> None:
    """A look is at all processes: one for each job would keep a jobd from serving for minutes."""
    ids = [f"00000000-0000-4000-8000-{number:012}" for number in range(50)]
    async with open_store(tmp_path / "jobs") as store:
        journal, logs = PatientJournal(store), LogStore(tmp_path / "output")
        for each in ids:
            await store.insert(Job(each, SLEEP, State.RUNNING, 0, pid=1, started_at=0))
        pool = open_local_pool(Together(len(ids)), logs, journal, count=1, slots=1, timings=Timings())
        with trio.fail_after(patient(20)):
            async with pool as made, open_broker(made, store, journal, logs) as broker:
                for each in ids:
                    assert (await broker.query(each)).reason == Reason.DAEMON_LOST
