"""The default pool: workers on this machine, all over one launcher and one store of output."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from jobd.worker.ports import Journal, Launcher, OutputStore
from jobd.worker.supervisor import Timings
from jobd.worker.worker import Worker


@asynccontextmanager
async def open_local_pool(
    launcher: Launcher,
    outputs: OutputStore,
    journal: Journal,
    *,
    count: int,
    slots: int,
    timings: Timings,
    name: str = "local",
    ends_jobs: Callable[[], bool] = lambda: True,
) -> AsyncIterator[list[Worker]]:
    """``count`` workers. On the way out their jobs are ended, and the end of each is in the journal; or they are left
    to the launcher, if ``ends_jobs`` says so then."""
    async with trio.open_nursery() as nursery:
        names = [name] if count == 1 else [f"{name}-{number}" for number in range(1, count + 1)]
        try:
            yield [
                Worker(
                    nursery,
                    launcher,
                    outputs,
                    name=name,
                    slots=slots,
                    journal=journal,
                    timings=timings,
                    ends_jobs=ends_jobs,
                )
                for name in names
            ]
        finally:
            nursery.cancel_scope.cancel()
