"""Transactions, reads and leases, as a real etcd answers them."""

from __future__ import annotations

import secrets

import pytest

from jobd.pools.etcd.client import KV, Client
from jobd.pools.etcd.errors import CompactedError, LeaseGoneError, RejectedError, TooLargeError
from jobd.pools.etcd.transaction import Delete, Get, KeyValue, Put, Txn, absent, created, unchanged

MIB = 1024 * 1024


async def put(client: Client, key: bytes, value: bytes, lease: int = 0) -> int:
    """The revision that wrote it."""
    return (await client.txn(Txn((), (Put(key, value, lease),)))).revision


async def compact(client: Client, revision: int) -> None:
    """CompactionRequest.revision; small ones."""
    assert revision < 1 << 14
    await client._call(KV, "Compact", bytes((0x08, revision & 127 | 128, revision >> 7)), writes=True)


async def test_what_is_absent_is_put_once(client: Client, prefix: bytes) -> None:
    """The second of two that ask for the same key's absence is told so, and reads what the first has put."""
    key = prefix + b"claim"
    first = await client.txn(Txn((absent(key),), (Put(key, b"first"),), (Get(key),)))
    second = await client.txn(Txn((absent(key),), (Put(key, b"second"),), (Get(key), Get(prefix + b"no"))))
    there = KeyValue(key, b"first", first.revision, first.revision)
    assert first.held
    assert first.found == ()
    assert not second.held
    assert second.found == (there, None)
    assert await client.get(key) == there


async def test_compares_tell_a_key_that_was_written_from_one_that_was_made_anew(client: Client, prefix: bytes) -> None:
    """``created`` holds for the former, ``unchanged`` for neither."""
    key = prefix + b"up"
    await put(client, key, b"1")
    made = await client.get(key)
    assert made
    await put(client, key, b"2")
    assert (await client.txn(Txn((created(made),), ()))).held
    assert not (await client.txn(Txn((unchanged(made),), ()))).held
    await client.txn(Txn((), (Delete(key),)))
    await put(client, key, b"1")
    assert not (await client.txn(Txn((created(made),), ()))).held


async def test_gets_are_answered_in_their_order(client: Client, prefix: bytes) -> None:
    """Between other steps, too."""
    await put(client, prefix + b"b", b"B")
    steps = (Get(prefix + b"b"), Put(prefix + b"c", b""), Get(prefix + b"a"), Delete(prefix + b"d"), Get(prefix + b"b"))
    found = (await client.txn(Txn((), steps))).found
    assert [at and at.value for at in found] == [b"B", None, b"B"]


async def test_a_transaction_that_writes_a_key_twice_is_rejected(client: Client, prefix: bytes) -> None:
    """And nothing of it is done."""
    with pytest.raises(RejectedError) as caught:
        await client.txn(Txn((), (Put(prefix, b"1"), Put(prefix, b"2"))))
    assert not caught.value.ambiguous
    assert await client.get(prefix) is None


async def test_pages_are_of_one_revision(client: Client, prefix: bytes) -> None:
    """What is written between two of them is in neither."""
    keys = [prefix + bytes((65 + number,)) for number in range(5)]
    for key in keys:
        await put(client, key, b"old")
    page = await client.page(prefix, size=2)
    await put(client, keys[4], b"new")
    await put(client, prefix + b"Z", b"new")
    found = list(page.found)
    while page.more:
        page = await client.page(prefix, after=found[-1].key, revision=page.revision, size=2)
        found += page.found
    assert [(at.key, at.value) for at in found] == [(key, b"old") for key in keys]


async def test_a_page_ends_where_the_prefix_does(client: Client, prefix: bytes) -> None:
    """A neighbour's keys are in none."""
    for key in (prefix + b"a", prefix[:-1] + b"0", prefix[:-1] + b"."):
        await put(client, key, b"")
    assert [at.key for at in (await client.page(prefix)).found] == [prefix + b"a"]


async def test_a_page_of_large_values_is_a_smaller_one(client: Client, prefix: bytes) -> None:
    """No answer is over what we take, and nothing is left out."""
    for number in range(5):
        await put(client, prefix + b"%d" % number, b"x" * MIB)
    page = await client.page(prefix, size=5)
    assert 0 < len(page.found) < 5
    assert page.more
    rest = await client.page(prefix, after=page.found[-1].key, revision=page.revision, size=3)
    assert len(page.found) + len(rest.found) == 5
    await client.txn(Txn((), tuple(Delete(prefix + b"%d" % number) for number in range(5))))


@pytest.mark.parametrize("size", [1600 * 1024, 3 * MIB])
async def test_a_value_over_the_limit_is_refused(client: Client, prefix: bytes, size: int) -> None:
    """By etcd, or by its server, and surely."""
    with pytest.raises(TooLargeError) as caught:
        await put(client, prefix, b"x" * size)
    assert not caught.value.ambiguous


async def test_a_compacted_revision_is_told(client: Client, prefix: bytes) -> None:
    """So that whoever lists begins anew; and a revision that is not there yet is one that a restore took back."""
    old = await put(client, prefix + b"a", b"1")
    new = await put(client, prefix + b"a", b"2")
    await compact(client, new)
    with pytest.raises(CompactedError):
        await client.page(prefix, revision=old)
    with pytest.raises(CompactedError):
        await client.page(prefix, revision=new + 1000)


async def test_keys_go_with_their_lease(client: Client, prefix: bytes) -> None:
    """A lease may be asked for twice; when it has ended, everything says so."""
    lease = 1 + secrets.randbelow(2**63 - 1)
    assert await client.lease_grant(lease, 60) == 60
    assert await client.lease_grant(lease, 60) == 60
    await put(client, prefix, b"", lease)
    found = await client.get(prefix)
    assert found
    assert found.lease == lease
    assert await client.lease_keep_alive(lease) == 60
    await client.lease_revoke(lease)
    assert await client.get(prefix) is None
    assert await client.lease_keep_alive(lease) == 0
    with pytest.raises(LeaseGoneError):
        await client.lease_revoke(lease)
    with pytest.raises(LeaseGoneError):
        await put(client, prefix, b"", lease)


async def test_a_member_says_how_it_is(client: Client) -> None:
    """Its version, and that it has a leader."""
    status = await client.status()
    assert status.version.startswith("3.")
    assert status.leader == status.member
    assert status.size > 0
