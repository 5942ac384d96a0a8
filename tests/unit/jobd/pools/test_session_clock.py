"""By which clock a session ends here: one that nobody sets, and that goes on while the machine sleeps."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import cast

import pytest
import trio
import trio.testing

from jobd.pools.etcd.client import Client
from jobd.pools.etcd.endpoints import Endpoint, Etcd
from jobd.pools.etcd.session import Held, LeaseSession
from jobd.pools.etcd.transaction import Store

ETCD = Etcd((Endpoint("127.0.0.1", 1),), None)


@dataclass
class Clocks:
    """The clocks of a machine; each goes only when it is told to."""

    now: dict[int, float] = field(
        default_factory=lambda: {time.CLOCK_REALTIME: 1e9, time.CLOCK_MONOTONIC: 500.0, time.CLOCK_BOOTTIME: 700.0}
    )

    def pass_(self, seconds: float) -> None:
        for each in self.now:
            self.now[each] += seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    made = Clocks()
    monkeypatch.setattr(time, "clock_gettime", lambda which: made.now[which])
    monkeypatch.setattr(time, "time", lambda: made.now[time.CLOCK_REALTIME])
    monkeypatch.setattr(time, "monotonic", lambda: made.now[time.CLOCK_MONOTONIC])
    return made


@pytest.fixture
async def session() -> LeaseSession:
    async def register(store: Store, lease: int) -> int:
        return 3

    return LeaseSession(ETCD, register, ttl=15, keepalive=4.0)


@pytest.mark.parametrize("step", [86_400.0, -86_400.0])
async def test_a_clock_that_is_set_ends_and_prolongs_nothing(
    clocks: Clocks, session: LeaseSession, step: float
) -> None:
    """Forwards or backwards: only the time that has passed counts."""
    session._held = Held(7, 3, 715.0)
    clocks.now[time.CLOCK_REALTIME] += step
    assert session.epoch == 3
    clocks.pass_(14.9)
    assert session.epoch == 3
    clocks.now[time.CLOCK_REALTIME] -= step
    clocks.pass_(0.2)
    assert session.epoch is None


async def test_what_a_machine_sleeps_through_counts(clocks: Clocks, session: LeaseSession) -> None:
    """etcd was awake, and has ended the lease."""
    session._held = Held(7, 3, 715.0)
    clocks.now[time.CLOCK_BOOTTIME] += 20
    assert session.epoch is None


async def test_a_session_lasts_from_when_the_keepalive_was_sent(
    clocks: Clocks, session: LeaseSession, autojump_clock: trio.testing.MockClock
) -> None:
    """However long the answer took: etcd may have counted from then on."""

    class Slow:
        """Each answer takes three seconds; the second keepalive is told that the lease has ended."""

        left = 2

        async def lease_grant(self, lease: int, ttl: int) -> int:
            clocks.pass_(3)
            return ttl

        async def lease_keep_alive(self, lease: int) -> int:
            clocks.pass_(3)
            self.left -= 1
            return 15 if self.left else 0

    client = cast(Client, Slow())
    held = await session._begin(client)
    assert held
    assert held.until == 715.0
    assert await session._hold(client, held) == "etcd has ended the lease"
    assert session._held
    assert session._held.until == 718.0
