"""The real ``jobcli``, in a process of its own: with a daemon, and without one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.client import JobClient
from tests.integration.conftest import Connect
from tests.support.jobcli import Jobcli, environment_for
from tests.support.pki import TestPki


@pytest.fixture
def jobcli(pki: TestPki, tmp_path: Path, server: str) -> Jobcli:
    """The writer's jobcli."""
    return Jobcli(environment_for(pki, tmp_path, server))


@pytest.fixture
def offline(pki: TestPki, tmp_path: Path) -> Jobcli:
    """A jobcli with settings for a server that is not there; for what is wrong before any contact."""
    return Jobcli(environment_for(pki, tmp_path, "localhost:1"))


@pytest.fixture
async def client(connect: Connect) -> AsyncIterator[JobClient]:
    """The writer, to prepare jobs and to look at them."""
    async with connect() as client:
        yield client
