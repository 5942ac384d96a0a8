"""The journal that workers write to: the store, with patience."""

from __future__ import annotations

from typing import Final

import trio

from jobd.broker.ports import Store
from jobd.worker.errors import StoreError
from jobd.worker.job import Job

PATIENCE: Final = 60.0
"""Seconds for which a change of a job is held back because the store cannot be written."""
PAUSE: Final = 0.5


class PatientJournal:
    """A :class:`jobd.worker.ports.Journal` that outlives a full disk.

    The end of a job that cannot be recorded is tried again; it is not published meanwhile, since a crash would
    take it back. When patience ends, that is an error for those who wait.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def note(self, job: Job) -> None:
        self._store.note(job)

    async def commit(self, job: Job) -> None:
        until = trio.current_time() + PATIENCE
        while True:
            try:
                return await self._store.commit(job)
            except StoreError:
                if trio.current_time() >= until:
                    raise
            await trio.sleep(PAUSE)
