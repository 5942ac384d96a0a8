"""Somebody dies right before, or right after, each step of a pool: another, or the next of them, finishes it.

The steps are the functions that make transactions. (That no order of them breaks a rule is searched in
tests/properties/pool; here it is brokers and workers themselves that stop in the middle.)
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import pytest
import trio
import trio.testing

from jobd.broker.admission import ANYTHING
from jobd.pools.etcd import ends, housekeeping, membership, steps
from jobd.pools.etcd.client import Client
from jobd.pools.etcd.front import Front
from jobd.pools.etcd.housekeeping import YOUNGEST
from jobd.pools.etcd.mirror import Mirror
from jobd.pools.etcd.placer import Placer
from jobd.pools.etcd.private import Seal
from jobd.pools.etcd.roster import Roster
from jobd.pools.etcd.sweeper import Sweeper
from jobd.pools.etcd.transaction import Outcome, Txn
from jobd.worker.facts import spec_facts
from jobd.worker.job import JobSpec
from jobd.worker.supervisor import Stop
from tests.support.broker import Make
from tests.support.memory_etcd import MemoryEtcd
from tests.support.patience import patient
from tests.support.pool_steps import JOB, LEASE, Pool, ending, thaw
from tests.unit.jobd.broker.test_pool_agent import agent_of, as_before_they_were_taken, assign, phase_of, runs
from tests.unit.jobd.pools.test_placer import heard

ROOMS: Final = (steps, ends, membership, housekeeping)
OF_WORKERS: Final = ("claim", "report", "give_back", "settle", "reassert", "change_session")
OF_BROKERS: Final = ("submit", "place", "gone", "stop", "forget", "leave", "drain", "undrain")
EXEMPT: Final = {
    "found_pool": "who begins a pool looks again, until there is one; test_membership",
    "enter": "it is called until there is nothing more to do; test_membership",
}


def test_every_step_of_the_code_is_named_here() -> None:
    """One that is new is to be added to a table, and to have its scenario; or a reason."""
    found = {
        name
        for room in ROOMS
        for name, each in vars(room).items()
        if inspect.isfunction(each)
        and each.__module__ == room.__name__
        and str(inspect.signature(each).return_annotation).startswith("Txn")
    }
    assert found == {*OF_WORKERS, *OF_BROKERS, *EXEMPT}


@dataclass
class Mortal(MemoryEtcd):
    """Who sends the transaction that a step has made never gets any further."""

    step: str = ""
    when: str = ""
    made: list[tuple[str, Txn]] = field(default_factory=list)
    died: trio.Event = field(default_factory=trio.Event)

    async def txn(self, txn: Txn) -> Outcome:
        if self.died.is_set() or not any(name == self.step and each is txn for name, each in self.made):
            return await super().txn(txn)
        if self.when == "after":
            await super().txn(txn)
        self.died.set()
        await trio.sleep_forever()
        raise AssertionError


@pytest.fixture
def etcd(monkeypatch: pytest.MonkeyPatch) -> Mortal:
    """It knows by which step each transaction was made."""
    etcd = Mortal()

    def told(name: str, function: Callable[..., Txn | None]) -> Callable[..., Txn | None]:
        def make(*args: Any, **named: Any) -> Txn | None:
            txn = function(*args, **named)
            if txn is not None:
                etcd.made.append((name, txn))
            return txn

        return make

    for room in ROOMS:
        for name in (*OF_WORKERS, *OF_BROKERS):
            if hasattr(room, name):
                monkeypatch.setattr(room, name, told(name, getattr(room, name)))
    monkeypatch.setattr("jobd.pools.etcd.sweeper.leave", housekeeping.leave)
    monkeypatch.setattr("jobd.pools.etcd.doors.change_session", membership.change_session)
    return etcd


@asynccontextmanager
async def until_death(etcd: Mortal, step: str, when: str) -> AsyncIterator[None]:
    """What is begun in the block's nursery ends where the step dies."""
    etcd.step, etcd.when = step, when
    with trio.fail_after(patient(20)):
        yield
        await etcd.died.wait()


# ---- workers


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", OF_WORKERS)
async def test_the_next_server_of_a_worker_finishes_what_the_last_one_began(
    make: Make, etcd: Mortal, tmp_path: Path, step: str, when: str
) -> None:
    """Its job ran once, and its end is known; or the job is where it can be taken by another."""
    pool, marks = Pool(etcd=etcd), tmp_path / "marks"
    await pool.enter()
    waits = step in ("settle", "reassert")
    script = f"echo x >> {marks}" + ("; exec sleep 1000" if waits else "")
    async with make(slots=1) as broker:
        if step in ("give_back", "change_session"):  # there is no room for it
            await broker.start(JobSpec(("sleep", "1000")), by="ann")
        await assign(pool, JOB, spec_facts(JobSpec(("sh", "-c", script))))
        async with until_death(etcd, step, when), agent_of(pool, broker):
            if waits:
                await runs(broker, JOB)
                while not marks.exists():
                    await trio.sleep(0.005)
                if step == "reassert":
                    await etcd.txn(as_before_they_were_taken(pool.keys, JOB))
                else:
                    etcd.expire(LEASE)
                    await give_up(pool)
            await etcd.died.wait()
        async with agent_of(pool, broker) if step != "settle" else entered(pool, lambda: agent_of(pool, broker)):
            match step:
                case "claim" | "report":
                    assert (await phase_of(pool, JOB, "ended")).state.job["state"] == "succeeded"
                case "give_back" | "change_session":
                    await phase_of(pool, JOB, "pending")
                    assert not marks.exists()
                case "settle":
                    while await pool.has(pool.keys.assigned("w1", JOB)):
                        await trio.sleep(0.005)
                case "reassert":
                    await phase_of(pool, JOB, "claimed")
                    await pool.take(thaw(pool.keys))
                    await broker.stop(JOB, Stop(by="ann"))
                    await phase_of(pool, JOB, "ended")
    assert not marks.exists() or marks.read_text() == "x\n"


async def give_up(pool: Pool) -> None:
    """As an operator does, of a machine that is gone."""
    front, _ = broker_of(pool)
    await heard(front._mirror, pool.etcd)
    await front.forget(JOB, "ann")


@asynccontextmanager
async def entered(pool: Pool, then: Callable[[], Any]) -> AsyncIterator[None]:
    """With a session again."""
    await pool.enter(instance="i2")
    async with then():
        yield


# ---- brokers


def broker_of(pool: Pool) -> tuple[Front, Mirror]:
    client = cast(Client, pool.etcd)
    mirror = Mirror(client, pool.keys)
    return Front(client, mirror, Seal(), policy=ANYTHING, max_pending=9), mirror


async def submits(pool: Pool) -> None:
    front, mirror = broker_of(pool)
    await heard(mirror, pool.etcd)
    await front.start(JobSpec(("true",)), by="ann", roles=(), request_id="r1")


async def places(pool: Pool) -> None:
    front, mirror = broker_of(pool)
    await heard(mirror, pool.etcd)
    placer: Placer = front.placer
    await placer._place()


async def sees_to_the_gone(pool: Pool) -> None:
    front, mirror = broker_of(pool)
    await heard(mirror, pool.etcd)
    await front.placer._see_to_the_gone()
    await trio.sleep(2)
    await front.placer._see_to_the_gone()


async def stops(pool: Pool) -> None:
    front, mirror = broker_of(pool)
    await heard(mirror, pool.etcd)
    placed = await front.find(JOB)
    if not placed.job.state.terminal:
        await front.stop_unclaimed(placed, "ann")


async def sweeps(pool: Pool) -> None:
    _, mirror = broker_of(pool)
    await heard(mirror, pool.etcd)
    await Sweeper(cast(Client, pool.etcd), mirror, YOUNGEST + 1, 0).sweep()


async def drains(pool: Pool) -> None:
    await Roster(cast(Client, pool.etcd), await hearing(pool)).drain("w1", "ann")


async def undrains(pool: Pool) -> None:
    await Roster(cast(Client, pool.etcd), await hearing(pool)).undrain("w1")


async def hearing(pool: Pool) -> Mirror:
    _, mirror = broker_of(pool)
    await heard(mirror, pool.etcd)
    return mirror


BROKERS: Final[dict[str, Callable[[Pool], Awaitable[None]]]] = {
    "submit": submits,
    "place": places,
    "gone": sees_to_the_gone,
    "stop": stops,
    "forget": give_up,
    "leave": sweeps,
    "drain": drains,
    "undrain": undrains,
}


async def before(pool: Pool, step: str) -> None:
    """What there has to be for it."""
    await pool.enter()
    if step in ("place", "gone", "stop", "forget"):
        await assign(pool, JOB, spec_facts(JobSpec(("true",))))
    if step == "place":
        await pool.take(ends.give_back(pool.keys, await pool.found()))
    if step in ("gone", "forget"):
        await pool.claim()
        pool.etcd.expire(LEASE)
    if step == "leave":
        await pool.running()
        claim = await pool.at(pool.keys.claim(JOB))
        await pool.take(ends.report(pool.keys, await pool.found(), claim, ending()))
    if step == "undrain":
        await drains(pool)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", OF_BROKERS)
async def test_another_broker_finishes_what_one_began(
    etcd: Mortal, autojump_clock: trio.testing.MockClock, step: str, when: str
) -> None:
    """It comes to what it would have come to; twice is once."""
    whole = Pool(etcd=Mortal())
    await before(whole, step)
    await BROKERS[step](whole)
    pool = Pool(etcd=etcd)
    await before(pool, step)
    async with until_death(etcd, step, when), trio.open_nursery() as nursery:
        nursery.start_soon(BROKERS[step], pool)
        await etcd.died.wait()
        nursery.cancel_scope.cancel()
    await BROKERS[step](pool)
    assert kinds(pool) == kinds(whole)
    await BROKERS[step](pool)
    assert kinds(pool) == kinds(whole)


def kinds(pool: Pool) -> list[tuple[str, str]]:
    """Which keys there are, and how far jobs have come."""
    found = []
    for key, at in pool.etcd.kvs.items():
        kind = key.decode().split("/")[2]
        found.append((kind, steps.Found.of(pool.keys, at).state.phase if kind == "j" else ""))
    return sorted(found)
