"""One etcd of each kind that there is, for all tests of a process; each test has keys of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from jobd.pools.etcd.client import Client, open_client
from tests.support.etcd import Cluster, binaries, cluster


@pytest.fixture(scope="session", params=list(binaries()) or ["none"])
def etcd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An etcd of one member, which no test ends."""
    if request.param not in binaries():
        pytest.skip("no etcd is installed")
    with cluster(tmp_path_factory.mktemp("etcd"), binary=binaries()[request.param]) as started:
        yield started


@pytest.fixture
async def client(etcd: Cluster) -> AsyncIterator[Client]:
    async with open_client(etcd.etcd) as opened:
        yield opened


@pytest.fixture
def prefix(etcd: Cluster) -> bytes:
    """Keys that no other test has."""
    return etcd.prefix()
