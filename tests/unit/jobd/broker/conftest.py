"""A broker over real workers and a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from jobd.broker.broker import Broker
from jobd.broker.journal import PatientJournal
from jobd.broker.recovery import open_broker
from jobd.launcher.local import LocalLauncher
from jobd.limits.walk import Walk
from jobd.output.log import LogStore
from jobd.pools.local import open_local_pool
from jobd.storage.sqlite import open_store
from jobd.worker.supervisor import Timings
from tests.support.broker import Make


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A broker over one state directory; made again, it is what comes after a restart."""

    @asynccontextmanager
    async def make(*, workers: int = 1, slots: int = 2, **settings: Any) -> AsyncIterator[Broker]:
        async with open_store(tmp_path / "jobs") as store:
            journal, logs = PatientJournal(store), LogStore(tmp_path / "output")
            pool = open_local_pool(
                LocalLauncher(Walk()), logs, journal, count=workers, slots=slots, timings=Timings(2.0, 0.3, 5.0)
            )
            async with pool as made, open_broker(made, store, journal, logs, **settings) as broker:
                yield broker

    return make
