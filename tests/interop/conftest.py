"""Stubs made by grpcio-tools, a daemon in this process, and its audit log as it is written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import pytest
import structlog
import trio
from structlog.typing import EventDict, WrappedLogger

from tests.interop.peer import PATIENCE, GrpcioPeer, grpcio_peer
from tests.interop.stubs import generate
from tests.support.daemon import running_daemon
from tests.support.pki import TestPki


class Peer(Protocol):
    def __call__(self, who: str = "alice") -> AbstractAsyncContextManager[GrpcioPeer]: ...


class AuditLog:
    """The audit lines of the daemon in this process, each at the moment when it is written."""

    def __init__(self) -> None:
        self._write, self._read = trio.open_memory_channel[EventDict](10_000)

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """The structlog processor."""
        if event.get("event") == "call":
            self._write.send_nowait(dict(event))
        return event

    async def line(self, *methods: str) -> EventDict:
        """The next line about one of these methods: its handler has ended."""
        with trio.fail_after(PATIENCE):
            async for event in self._read:
                if event["method"].rpartition("/")[2] in methods:
                    return event
        raise AssertionError("the audit log is closed")


@pytest.fixture(scope="session")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the generated code."""
    return generate(tmp_path_factory.mktemp("stubs"))


@pytest.fixture
async def server(pki: TestPki, tmp_path: Path) -> AsyncIterator[str]:
    """The address of a daemon in this process."""
    async with running_daemon(pki, tmp_path / "state") as address:
        yield address


@pytest.fixture
def audit_log(log_guard: list[EventDict]) -> Iterator[AuditLog]:
    """What the daemon says of each call that has ended."""
    log = AuditLog()
    processors = structlog.get_config()["processors"]
    processors.insert(0, log)
    yield log
    processors.remove(log)


@pytest.fixture
def peer(stubs: Path, pki: TestPki, server: str) -> Peer:
    """Start a grpcio client of the daemon, as one of the test clients."""

    def start(who: str = "alice") -> AbstractAsyncContextManager[GrpcioPeer]:
        return grpcio_peer(stubs, pki, server, who)

    return start
