"""One etcd of each release, for all tests of a process; each test has keys of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from jobd.pools.etcd.client import Client, open_client
from tests.support.etcd import RELEASES, Cluster, binary_of, cluster


@pytest.fixture(scope="session", params=RELEASES)
def binary(request: pytest.FixtureRequest) -> str:
    found = binary_of(request.param)
    if found is None:
        pytest.skip(f"no etcd {request.param} is installed")
    return found


@pytest.fixture(scope="session")
def etcd(binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An etcd of one member, which no test ends."""
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
