"""An etcd, and pools in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from tests.support.etcd import Cluster, binaries, cluster
from tests.support.patience import patient
from tests.support.pki import TestPki
from tests.support.pool import Pool, open_pool


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
