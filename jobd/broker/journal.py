"""The journal that workers write to: the store, with patience."""

from __future__ import annotations

import contextlib
import math
from typing import Final

import trio

from jobd.broker.ports import Store
from jobd.worker.errors import StoreError
from jobd.worker.job import Job

PATIENCE: Final = 10.0
"""Seconds for which an orderly end waits for a store that cannot be written."""
PAUSE: Final = 0.5


class PatientJournal:
    """A :class:`jobd.worker.ports.Journal` that outlives a full disk.

    What cannot be recorded is tried again until it can; it is not published meanwhile, since a crash would take it
    back, and whoever remembers the job for us goes on remembering it. When patience ends, that is an error.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._until = math.inf

    def note(self, job: Job) -> None:
        self._store.note(job)

    def hurry(self) -> None:
        """The daemon is to end: from now on, patience has an end too."""
        self._until = min(self._until, trio.current_time() + PATIENCE)

    async def settle(self) -> None:
        with contextlib.suppress(StoreError):
            await self._store.settle()

    async def commit(self, job: Job) -> None:
        while True:
            try:
                return await self._store.commit(job)
            except StoreError:
                if trio.current_time() >= self._until:
                    raise
            await trio.sleep(PAUSE)
