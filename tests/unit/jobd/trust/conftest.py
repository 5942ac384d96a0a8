"""Trust of a server that runs, its files, and its clock."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from jobd.trust.live import LiveTrust
from tests.support.live_pki import LivePki
from tests.support.live_trust import Clock, WatchedFiles, running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def files(ours: LivePki) -> WatchedFiles:
    return WatchedFiles(ours.certificate("server"), ours.key("server"), ours.ca, None, ours.crl)


@pytest.fixture
async def live(files: WatchedFiles, clock: Clock) -> AsyncIterator[LiveTrust]:
    """Of a server that runs."""
    async with running(LiveTrust(files, demanding=True, now=clock)) as live:
        yield live
