"""The etcd in memory means what etcd's documentation says of transactions, revisions, leases and watches."""

from __future__ import annotations

import pytest

from api.errors import UnavailableError
from jobd.pools.etcd.transaction import Compare, Delete, Get, Put, Txn, absent, created, unchanged
from tests.support.memory_etcd import CompactedError, Event, Fate, MemoryEtcd, RefusedError


async def put(etcd: MemoryEtcd, key: bytes, value: bytes = b"", lease: int = 0) -> None:
    await etcd.txn(Txn((), (Put(key, value, lease),)))


async def test_revisions() -> None:
    """One for each transaction that changes something; a key keeps the one that made it until it is deleted."""
    etcd = MemoryEtcd()
    await etcd.txn(Txn((), (Put(b"a", b"1"), Put(b"b", b"1"))))
    assert etcd.revision == 2
    await put(etcd, b"a", b"2")
    a = etcd.kvs[b"a"]
    assert (a.created, a.modified) == (2, 3)
    assert not (await etcd.txn(Txn((absent(b"a"),), (), (Delete(b"none"), Get(b"a"))))).held
    assert etcd.revision == 3
    await etcd.txn(Txn((), (Delete(b"a"),)))
    await put(etcd, b"a")
    assert etcd.kvs[b"a"].created == 5
    assert not (await etcd.txn(Txn((created(a),), ()))).held


async def test_compares_and_what_is_found() -> None:
    """All of them must hold; a Get sees what the steps before it did."""
    etcd = MemoryEtcd()
    await put(etcd, b"a")
    a = etcd.kvs[b"a"]
    outcome = await etcd.txn(Txn((unchanged(a), absent(b"b")), (Put(b"b", b"x"), Get(b"b"), Get(b"c"))))
    assert outcome.held
    assert [at and at.value for at in outcome.found] == [b"x", None]
    outcome = await etcd.txn(Txn((unchanged(a), absent(b"b")), (), (Get(b"a"),)))
    assert not outcome.held
    assert outcome.found == (a,)
    assert (await etcd.txn(Txn((Compare(b"none", "modified", 0),), ()))).held


async def test_what_etcd_refuses() -> None:
    """Two writes of a key, too many steps, too much, and a lease that is not there."""
    etcd = MemoryEtcd()
    for txn in (
        Txn((), (Put(b"a", b""), Delete(b"a"))),
        Txn((), (), (Put(b"a", b""), Put(b"a", b""))),
        Txn((), tuple(Delete(b"%d" % n) for n in range(129))),
        Txn((), (Put(b"a", bytes(1_600_000)),)),
        Txn((), (Put(b"a", b"", 7),)),
    ):
        with pytest.raises(RefusedError):
            await etcd.txn(txn)
    assert etcd.kvs == {}


async def test_a_lease_ends_with_its_keys() -> None:
    """All at one revision, and only those."""
    etcd = MemoryEtcd()
    etcd.grant(7)
    await put(etcd, b"a", lease=7)
    await put(etcd, b"b", lease=7)
    await put(etcd, b"c")
    etcd.expire(7)
    assert (set(etcd.kvs), etcd.revision) == ({b"c"}, 5)


async def test_pages_are_of_one_revision() -> None:
    """Whatever is written meanwhile; until that is compacted."""
    etcd = MemoryEtcd()
    for key in (b"a/1", b"a/2", b"a/3", b"b"):
        await put(etcd, key)
    first = await etcd.page(b"a/", size=2)
    await etcd.txn(Txn((), (Delete(b"a/3"),)))
    assert ([at.key for at in first.found], first.more) == ([b"a/1", b"a/2"], True)
    then = await etcd.page(b"a/", after=b"a/2", revision=first.revision)
    assert ([at.key for at in then.found], then.more) == ([b"a/3"], False)
    etcd.compact()
    with pytest.raises(CompactedError):
        await etcd.page(b"a/", revision=first.revision)


async def test_a_watch_sees_what_was_and_what_comes() -> None:
    """In order, from the revision asked for; or is told that it is compacted."""
    etcd = MemoryEtcd()
    await put(etcd, b"a/1")
    await put(etcd, b"b")
    watch = etcd.watch(b"a/", since=2)
    assert await anext(watch) == Event(b"a/1", 2, etcd.kvs[b"a/1"])
    await etcd.txn(Txn((), (Delete(b"a/1"), Put(b"a/2", b""))))
    assert [await anext(watch), await anext(watch)] == [Event(b"a/1", 4, None), Event(b"a/2", 4, etcd.kvs[b"a/2"])]
    await watch.aclose()  # type: ignore[attr-defined]
    etcd.compact()
    with pytest.raises(CompactedError):
        await anext(etcd.watch(b"a/", since=3))


@pytest.mark.parametrize("fate", Fate)
async def test_a_transaction_in_doubt(fate: Fate) -> None:
    """Its sender hears nothing; it was done, was not, or comes later."""
    etcd = MemoryEtcd(doubts=[fate])
    with pytest.raises(UnavailableError):
        await put(etcd, b"a")
    assert (b"a" in etcd.kvs) is (fate is Fate.DONE)
    etcd.arrive()
    assert (b"a" in etcd.kvs) is (fate is not Fate.NOT_DONE)
