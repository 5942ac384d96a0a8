"""Who is in the pool."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobd.pools.etcd import membership
from jobd.pools.etcd.codec import decode
from jobd.pools.etcd.pool_errors import PoolSchemaError, WorkerNameError
from jobd.pools.etcd.records import Member, Session
from jobd.pools.etcd.transaction import Delete, Put, Txn
from tests.support.pool_steps import LEASE, Pool

MEMBER = Member(uid="uid-w1", address="h:1")
SESSION = Session(uid="uid-w1", instance="i1", address="h:1", slots=2)


async def begin(pool: Pool) -> Txn | None:
    first = await pool.etcd.page(pool.keys.everything, size=1)
    return membership.found_pool(pool.keys, await pool.etcd.get(pool.keys.schema), first)


async def test_a_pool_begins_where_nothing_is(pool: Pool) -> None:
    """And is there from then on; what other prefixes hold does not matter."""
    await pool.etcd.txn(Txn((), (Put(b"/pp/x", b"theirs"),)))
    await pool.take(await begin(pool))
    assert await begin(pool) is None


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        (b"/p/x", b"theirs", "no pool"),
        (b"/p/schema", b"theirs", "no pool"),
        (b"/p/schema", b'{"schema":2}', "schema 2, and this jobd knows 1"),
    ],
)
async def test_what_is_no_pool_of_ours_is_left_alone(pool: Pool, key: bytes, value: bytes, why: str) -> None:
    """Something else's data, and a newer jobd's."""
    await pool.etcd.txn(Txn((), (Put(key, value),)))
    with pytest.raises(PoolSchemaError, match=why):
        await begin(pool)


async def test_a_name_belongs_to_one_machine(pool: Pool) -> None:
    """Another that has the same one is refused, whether or not the first is there."""
    await pool.enter()
    stranger = replace(MEMBER, uid="other")
    for expired in (False, True):
        if expired:
            pool.etcd.expire(LEASE)
        was, up = await pool.at(pool.keys.member("w1")), await pool.etcd.get(pool.keys.session("w1"))
        with pytest.raises(WorkerNameError, match="another machine"):
            membership.enter(pool.keys, "w1", stranger, replace(SESSION, uid="other"), 9, was=was, up=up)


async def test_a_new_server_of_the_same_machine_has_a_new_epoch(pool: Pool) -> None:
    """The session that the old one left is replaced, and what was compared with it no longer holds."""
    await pool.enter(instance="i1")
    first = await pool.at(pool.keys.session("w1"))
    await pool.enter(instance="i2", lease=8)
    second = await pool.at(pool.keys.session("w1"))
    assert second.created > first.created
    assert not (await pool.take(membership.change_session(first, SESSION))).held
    assert (await pool.take(membership.change_session(second, SESSION))).held


async def test_to_enter_twice_is_to_enter_once(pool: Pool) -> None:
    """In doubt it is looked at again."""
    await pool.enter()
    before = pool.etcd.revision
    await pool.enter()
    assert pool.etcd.revision == before


async def test_two_machines_that_are_new_at_once_are_not_one(pool: Pool) -> None:
    """Both have seen that nobody has the name."""
    mine = membership.enter(pool.keys, "w1", MEMBER, SESSION, 0, was=None, up=None)
    other = replace(MEMBER, uid="other"), replace(SESSION, uid="other")
    theirs = membership.enter(pool.keys, "w1", *other, 0, was=None, up=None)
    assert (await pool.take(mine)).held
    assert not (await pool.take(theirs)).held


async def test_a_machine_that_has_moved_says_so(pool: Pool) -> None:
    """Its identity is the same."""
    await pool.enter()
    pool.etcd.expire(LEASE)
    was = await pool.at(pool.keys.member("w1"))
    moved = replace(MEMBER, address="h:2")
    await pool.take(membership.enter(pool.keys, "w1", moved, SESSION, 0, was=was, up=None))
    now = await pool.at(pool.keys.member("w1"))
    assert decode(Member, now.key, now.value).address == "h:2"


async def test_a_session_says_something_else_and_is_the_same(pool: Pool) -> None:
    """With its lease; jobs that were placed with it before are claimed."""
    await pool.enter()
    up = await pool.at(pool.keys.session("w1"))
    await pool.take(membership.change_session(up, replace(SESSION, accepting=False)))
    now = await pool.at(pool.keys.session("w1"))
    assert (now.created, now.lease) == (up.created, up.lease)
    assert not decode(Session, now.key, now.value).accepting


async def test_a_drain_is_of_a_worker_that_there_is(pool: Pool) -> None:
    """Said twice it is said once; the first one who did is known."""
    await pool.enter()
    member = await pool.at(pool.keys.member("w1"))
    assert (await pool.take(membership.drain(pool.keys, member, "ann", 1))).held
    again = await pool.take(membership.drain(pool.keys, member, "bob", 2))
    assert not again.held
    assert again.found[0] is not None
    assert b"ann" in again.found[0].value
    await pool.take(membership.undrain(pool.keys, "w1"))
    assert not await pool.has(pool.keys.drain("w1"))


async def test_a_name_is_free_when_its_member_is_deleted(pool: Pool) -> None:
    """With the key that the refusal names: an operator has seen to it that the machine never comes back."""
    await pool.enter()
    pool.etcd.expire(LEASE)
    was, new = await pool.at(pool.keys.member("w1")), replace(MEMBER, uid="new")
    with pytest.raises(WorkerNameError, match=r"etcdctl del /p/m/w1 ") as refused:
        membership.enter(pool.keys, "w1", new, SESSION, 0, was=was, up=None)
    key = str(refused.value).split("etcdctl del ")[1].split()[0]
    await pool.take(Txn((), (Delete(key.encode()),)))
    assert (await pool.take(membership.enter(pool.keys, "w1", new, SESSION, 0, was=None, up=None))).held
