"""An etcd, and pools in it."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from tests.support.etcd import Cluster, binaries, cluster
from tests.support.jobs import processes_with
from tests.support.patience import patient
from tests.support.pki import TestPki
from tests.support.pool import Pool, open_pool
from tests.support.pool_programs import Programs

SECONDS = 3
"""That a session of a program here lasts."""


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One member, which no test ends."""
    if not binaries():
        pytest.skip("no etcd is installed")
    with cluster(tmp_path_factory.mktemp("etcd")) as started:
        yield started


@pytest.fixture
async def pool(etcd: Cluster, pki: TestPki, tmp_path: Path) -> AsyncIterator[Pool]:
    """A pool without machines. No test here may take longer than its scope."""
    with trio.fail_after(patient(40)):
        async with open_pool(etcd, pki, tmp_path) as made:
            yield made


@pytest.fixture
async def programs(pool: Pool) -> AsyncIterator[Programs]:
    """The pool's machines that are programs."""
    made = Programs(pool, SECONDS)
    try:
        yield made
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(made.close)


@pytest.fixture
def orphans() -> Iterator[list[str]]:
    """Ids of jobs whose processes nobody ends who is left."""
    jobs: list[str] = []
    yield jobs
    for pid in [pid for job in jobs for pid in processes_with(job)]:
        os.kill(pid, signal.SIGKILL)
