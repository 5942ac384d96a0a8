"""A lease that is held: whatever this program does, until it is lost, and then anew."""

from __future__ import annotations

import time

import trio

from jobd.pools.etcd.client import Client
from jobd.pools.etcd.session import LeaseSession, boottime, open_session
from tests.integration.etcd.test_store import put
from tests.support.etcd import Cluster, registration, wait_lost
from tests.support.patience import patient

LONG = 60
"""Seconds that no test takes."""


async def held(session: LeaseSession) -> int:
    with trio.fail_after(patient(30)):
        return await session.wait_held()


async def test_the_epoch_is_the_revision_that_made_the_key(etcd: Cluster, client: Client, prefix: bytes) -> None:
    """And the key goes with the lease."""
    async with open_session(etcd.etcd, registration(prefix, b"here"), ttl=LONG) as session:
        epoch = await held(session)
        found = await client.get(prefix)
        assert found
        assert (found.created, found.value) == (epoch, b"here")
        assert session._held
        assert found.lease == session._held.lease
        assert boottime() < session._held.until <= boottime() + LONG


async def test_a_blocked_event_loop_does_not_lose_it(etcd: Cluster, prefix: bytes) -> None:
    """It is kept alive from another thread, over a connection of its own."""
    async with open_session(etcd.etcd, registration(prefix, b""), ttl=LONG, keepalive=0.05) as session:
        await held(session)
        before, limit = session._held, time.monotonic() + patient(30)
        while session._held is before:
            assert time.monotonic() < limit
            time.sleep(0.01)  # noqa: ASYNC251 # this is the blocked loop
        assert before
        assert session._held
        assert session._held.epoch == before.epoch
        assert session._held.until > before.until


async def test_one_that_etcd_has_ended_begins_anew(etcd: Cluster, client: Client, prefix: bytes) -> None:
    """With another epoch; who waits for the end is told."""
    async with open_session(etcd.etcd, registration(prefix, b""), ttl=LONG, keepalive=0.05) as session:
        epoch = await held(session)
        assert session._held
        await client.lease_revoke(session._held.lease)
        with trio.fail_after(patient(30)):
            await wait_lost(session, epoch)
        again = await held(session)
        assert again > epoch
        found = await client.get(prefix)
        assert found
        assert found.created == again


async def test_a_former_one_is_replaced(etcd: Cluster, client: Client, prefix: bytes) -> None:
    """What a killed server left is not waited for."""
    lease = await client.lease_grant(4711, LONG) and 4711
    before = await put(client, prefix, b"former", lease)
    async with open_session(etcd.etcd, registration(prefix, b"new"), ttl=LONG) as session:
        assert await held(session) > before
        found = await client.get(prefix)
        assert found
        assert (found.value, found.lease != lease) == (b"new", True)
    await client.lease_revoke(lease)


async def test_the_key_outlives_the_block(etcd: Cluster, client: Client, prefix: bytes) -> None:
    """A server that is about to be started again keeps its place."""
    async with open_session(etcd.etcd, registration(prefix, b""), ttl=LONG) as session:
        await held(session)
    assert await client.get(prefix)


async def test_a_block_that_is_cancelled_before_it_began_ends(etcd: Cluster, prefix: bytes) -> None:
    """Its thread is waited for, and ends."""
    with trio.CancelScope() as scope:
        scope.cancel()
        async with open_session(etcd.etcd, registration(prefix, b"")) as session:
            await session.wait_held()
    assert scope.cancelled_caught
