"""A worker over real processes and real logs, and no network."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from jobd.launcher.local import LocalLauncher
from jobd.limits.walk import Walk
from jobd.output.log import LogStore
from jobd.worker.supervisor import Timings
from jobd.worker.worker import Worker

FAST = Timings(grace=5.0, drain=0.3, kill=5.0)


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    """A worker; at the end of the test its jobs are ended."""
    async with trio.open_nursery() as nursery:
        yield Worker(nursery, LocalLauncher(Walk()), LogStore(tmp_path), timings=FAST)
        nursery.cancel_scope.cancel()
