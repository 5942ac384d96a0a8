"""The default pool: workers on this machine, all over one launcher and one store of output."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from jobd.worker.ports import Journal, Launcher, OutputStore
from jobd.worker.supervisor import Timings
from jobd.worker.worker import Worker


@asynccontextmanager
async def open_local_pool(
    launcher: Launcher, outputs: OutputStore, journal: Journal, *, count: int, slots: int, timings: Timings
) -> AsyncIterator[list[Worker]]:
    """``count`` workers. On the way out their jobs are ended, and the end of each is in the journal."""
    async with trio.open_nursery() as nursery:
        names = ["local"] if count == 1 else [f"local-{number}" for number in range(1, count + 1)]
        try:
            yield [
                Worker(nursery, launcher, outputs, name=name, slots=slots, journal=journal, timings=timings)
                for name in names
            ]
        finally:
            nursery.cancel_scope.cancel()
