"""What a broker does of its own accord, with an etcd in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import trio
from structlog.typing import EventDict

from jobd.pools.etcd import membership
from jobd.pools.etcd.answers import Deleted
from jobd.pools.etcd.client import Client
from jobd.pools.etcd.codec import decode, encode
from jobd.pools.etcd.mirror import Mirror
from jobd.pools.etcd.placer import GRACE, Placer
from jobd.pools.etcd.records import Order, Session
from jobd.pools.etcd.roster import Roster
from jobd.pools.etcd.transaction import Outcome, Put, Txn
from jobd.pools.etcd.watch import Listed
from jobd.worker.facts import spec_facts
from jobd.worker.job import JobSpec
from tests.support.memory_etcd import MemoryEtcd
from tests.support.pool_steps import JOB, LEASE, Pool, freeze, thaw

OTHER = f"{JOB[:-1]}2"
WHOLE = encode(Order(spec=spec_facts(JobSpec(("true",))), principal="ann", created_at=5))


async def heard(mirror: Mirror, etcd: MemoryEtcd) -> None:
    """All of etcd is heard of."""
    for part in mirror._parts:
        page = await etcd.page(part.prefix)
        part._list(Listed(page.found, page.revision, first=True, last=True))
    mirror._tell()


def broker(pool: Pool) -> tuple[Mirror, Placer]:
    mirror = Mirror(cast(Client, pool.etcd), pool.keys)

    async def order(job: str) -> Order | None:
        at = pool.keys.spec(job)
        found = await pool.etcd.get(at)
        return decode(Order, at, found.value) if found else None

    return mirror, Placer(cast(Client, pool.etcd), mirror, order)


async def put(pool: Pool, *records: tuple[bytes, bytes]) -> None:
    await pool.etcd.txn(Txn((), tuple(Put(*each) for each in records)))


async def test_what_is_damaged_holds_up_nobody(
    pool: Pool, log_guard: list[EventDict], errors_expected: list[EventDict]
) -> None:
    """Neither a key that is none nor a record: it is named, and left alone; what is whole is placed."""
    await pool.enter()
    await pool.submit(request_id="1")
    await pool.submit(request_id="2", job=OTHER)
    keys = pool.keys
    await put(
        pool,
        (keys.spec(JOB), b"{"),
        (keys.spec(OTHER), WHOLE),
        (keys.session("w9"), b"{}"),
        (keys.sessions + b"-", b"{}"),
    )
    await put(pool, (keys.queue + b"x", b"{}"), (keys.states + b"x", b"{}"), (keys.assignments("w1") + b"x", b"{}"))
    mirror, placer = broker(pool)
    await heard(mirror, pool.etcd)
    assert await placer._place()
    assert await pool.has(keys.assigned("w1", OTHER))
    assert not await pool.has(keys.assigned("w1", JOB))
    assert len([each for each in log_guard if each["log_level"] == "error"]) == 6


async def test_jobs_that_the_pool_does_not_know_take_up_slots(pool: Pool) -> None:
    """As their worker says; nothing is placed where there is room only without them, nor given back all the time."""
    await pool.enter()
    await pool.submit()
    await put(pool, (pool.keys.spec(JOB), WHOLE))
    up = await pool.at(pool.keys.session("w1"))
    session = decode(Session, up.key, up.value)
    mirror, placer = broker(pool)
    await pool.take(membership.change_session(up, replace(session, own=session.slots)))
    await heard(mirror, pool.etcd)
    assert [worker.taken for worker in Roster(cast(Client, pool.etcd), mirror).members()] == [session.slots]
    assert "taken" in await placer.why(JOB)
    assert not await placer._place()
    await pool.take(membership.change_session(up, replace(session, own=session.slots - 1)))
    await heard(mirror, pool.etcd)
    assert await placer._place()


async def test_a_job_that_comes_during_a_look_is_not_overlooked(pool: Pool, autojump_clock: object) -> None:
    """Also when nothing else happens after it."""
    await pool.enter()
    await pool.submit()
    mirror = Mirror(cast(Client, pool.etcd), pool.keys)
    comes = True

    async def order(job: str) -> Order | None:
        nonlocal comes
        await trio.lowlevel.checkpoint()
        if comes:
            comes = False
            await pool.submit(request_id="2", job=OTHER)
            await heard(mirror, pool.etcd)
        return decode(Order, b"", WHOLE) if job == OTHER else None

    placer = Placer(cast(Client, pool.etcd), mirror, order)
    await heard(mirror, pool.etcd)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(placer.run)
        with trio.fail_after(10):
            while not await pool.has(pool.keys.assigned("w1", OTHER)):
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


async def test_a_pool_that_is_frozen_says_so_and_places_at_once_when_it_is_thawed(
    pool: Pool, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step is sent for what cannot be placed; that the key is gone is news."""
    await pool.enter()
    await pool.submit()
    await put(pool, (pool.keys.spec(JOB), WHOLE))
    await pool.take(freeze(pool.keys))
    mirror, placer = broker(pool)
    sent, txn = [], pool.etcd.txn

    async def counted(each: Txn) -> Outcome:
        sent.append(each)
        return await txn(each)

    monkeypatch.setattr(pool.etcd, "txn", counted)
    await heard(mirror, pool.etcd)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(placer.run)
        await trio.sleep(300)
        assert "frozen" in await placer.why(JOB)
        assert not sent
        await txn(thaw(pool.keys))
        mirror.freezes._change(Deleted(pool.keys.frozen, pool.etcd.revision))
        mirror._tell()
        await trio.sleep(1)
        assert await pool.has(pool.keys.assigned("w1", JOB))
        nursery.cancel_scope.cancel()
    assert not mirror.frozen


async def test_what_only_begins_like_the_key_of_a_freeze_is_none(
    pool: Pool, log_guard: list[EventDict], errors_expected: list[EventDict]
) -> None:
    """It is named, and left alone."""
    await put(pool, (pool.keys.frozen + b"x", b"{}"))
    mirror, _ = broker(pool)
    await heard(mirror, pool.etcd)
    assert not mirror.frozen
    [said] = [each for each in log_guard if each["log_level"] == "error"]
    assert "/p/frozenx" in said["error"]


@pytest.mark.parametrize("claimed", [True, False])
async def test_what_a_worker_has_that_is_gone_is_seen_to(pool: Pool, autojump_clock: object, *, claimed: bool) -> None:
    """After a moment: what it has claimed is unreachable, what not waits again. It is done once."""
    if claimed:
        await pool.running()
    else:
        await pool.enter()
        await pool.submit()
        await pool.place()
    pool.etcd.expire(LEASE)
    mirror, placer = broker(pool)
    await heard(mirror, pool.etcd)
    assert not await placer._see_to_the_gone()
    await trio.sleep(GRACE)
    assert await placer._see_to_the_gone()
    now = (await pool.found()).state
    assert (now.phase, bool(now.unreachable)) == (("claimed", True) if claimed else ("pending", False))
    await heard(mirror, pool.etcd)
    assert not await placer._see_to_the_gone()
    assert not placer._missing
