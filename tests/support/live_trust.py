"""Trust while a server runs, in virtual time: files that are watched, a clock that is set, and what was said."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from structlog.typing import EventDict

from api.rpc.access import Access
from jobd.trust.files import Files, Look, Snapshot
from jobd.trust.live import INTERVAL, LiveTrust
from tests.support.live_pki import LivePki

DAY = timedelta(days=1)
TAKEN = "new certificates are in force"
KEPT = "new certificates cannot be used, the old stay in force"
REFUSED = "client refused"


class Clock:
    """A wall clock that is set. (Time itself, as the tasks know it, is the autojump clock's.)"""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


class WatchedFiles(Files):
    """Counts what is done with them, and does something in between.

    Attributes:
        looks, reads: so far.
        meanwhile: called after they were read.
    """

    looks = reads = 0
    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def look(self) -> Look:
        self.looks += 1
        return super().look()

    def read(self) -> Snapshot:
        self.reads += 1
        snapshot = super().read()
        self.meanwhile()
        return snapshot


@asynccontextmanager
async def running(live: LiveTrust) -> AsyncIterator[LiveTrust]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(live.run)
        yield live
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object]) -> None:
    """Let (virtual) time pass until it holds."""
    while not condition():
        await trio.sleep(INTERVAL)


async def some_looks(files: WatchedFiles) -> None:
    """Let the files be looked at, more often than it takes to take them."""
    seen = files.looks
    await until(lambda: files.looks >= seen + 5)


def ders(pki: LivePki, name: str) -> tuple[bytes, ...]:
    """The chain that a client with this certificate has."""
    paths = (pki.certificate(name), pki.ca)
    return tuple(x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER) for path in paths)


def said(log: list[EventDict], event: str) -> list[EventDict]:
    return [entry for entry in log if entry["event"] == event]


def reason(access: Access) -> str:
    return access.refusal.reason if access.refusal else ""
