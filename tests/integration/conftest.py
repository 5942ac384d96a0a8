"""A daemon in this process, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import pytest
import trio

from api.client import JobClient
from tests.support.daemon import running_daemon
from tests.support.patience import patient
from tests.support.pki import TestPki


class Connect(Protocol):
    def __call__(self, name: str = "alice", *, retry_for: float = 0) -> AbstractAsyncContextManager[JobClient]: ...


@pytest.fixture
async def server(pki: TestPki, tmp_path: Path) -> AsyncIterator[str]:
    """The address of a daemon."""
    async with running_daemon(pki, tmp_path / "state") as address:
        yield address


@pytest.fixture
def connect(pki: TestPki, server: str) -> Connect:
    """Connect to the daemon as one of the test clients."""

    def connect(name: str = "alice", *, retry_for: float = 0) -> AbstractAsyncContextManager[JobClient]:
        return JobClient.connect(server, **pki.credentials(name), retry_for=retry_for)

    return connect


@pytest.fixture
async def client(connect: Connect) -> AsyncIterator[JobClient]:
    """A writer's connection. No test here may take longer than its scope."""
    with trio.fail_after(patient(20)):
        async with connect() as client:
            yield client
