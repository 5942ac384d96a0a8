"""Calls that are refused, and the connection that goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from api.client import JobClient
from api.errors import (
    RpcError,
)
from api.messages import OutputSource

NO_JOB = "00000000-0000-4000-8000-000000000000"


@asynccontextmanager
async def refused(client: JobClient, kind: type[RpcError], reason: str, *fields: str) -> AsyncIterator[None]:
    """The block's call ends with this error, for these fields; another call then works on the same connection."""
    channel = await client.channel()
    with pytest.raises(kind) as caught:
        yield
    error = caught.value
    assert (type(error), error.reason) == (kind, reason), error.message
    assert tuple(violation.field for violation in error.violations) == fields
    assert error.message
    assert all(violation.description for violation in error.violations)
    await client.workers()
    assert await client.channel() is channel


async def stdout_of(client: JobClient, job_id: str) -> bytes:
    """All of a job's stdout."""
    collected = b""
    async with client.stream(job_id) as output:
        async for chunk in output:
            assert chunk.source == OutputSource.STDOUT
            collected += chunk.data
    return collected
