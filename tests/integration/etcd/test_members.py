"""Members that are killed or stopped while they are asked: what is known, what is not, and that it goes on."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
import trio
import trio.testing

from api.errors import UnavailableError
from api.rpc.call_stream import CallStream
from jobd.pools.etcd import requests
from jobd.pools.etcd.client import Client, end_of, open_client
from jobd.pools.etcd.endpoints import Etcd, Limits
from jobd.pools.etcd.errors import StoreUnavailableError
from jobd.pools.etcd.session import open_session
from jobd.pools.etcd.transaction import KeyValue
from jobd.pools.etcd.watch import WATCH, Changed, Listed, Watch
from tests.integration.etcd.test_store import put
from tests.support.etcd import Cluster, Member, cluster, fill, registration, wait_lost, wait_until_it_answers
from tests.support.patience import patient


@pytest.fixture(scope="module")
def one(binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One member with a small quota, which is stopped, killed and started again."""
    with cluster(tmp_path_factory.mktemp("etcd"), binary=binary, more=("--quota-backend-bytes", "20000000")) as started:
        yield started


def quick(etcd: Etcd) -> Etcd:
    """With the patience that a jobd has."""
    return replace(etcd, limits=Limits())


async def eventually(client: Client, key: bytes, value: bytes) -> None:
    """Write it: how often it is tried does not matter, as it says the same each time."""
    with trio.fail_after(patient(60)):
        while True:
            try:
                await put(client, key, value)
            except StoreUnavailableError:
                await trio.sleep(0.05)
            else:
                return


async def test_a_stopped_member_is_given_up_in_time(one: Cluster) -> None:
    """A write may have been done, and says so; a read was not."""
    (member,) = one.members
    async with open_client(quick(one.etcd)) as client:
        await eventually(client, b"a", b"1")
        member.stop()
        try:
            with trio.fail_after(patient(30)), pytest.raises(StoreUnavailableError) as caught:
                await put(client, b"a", b"2")
            assert caught.value.ambiguous
        finally:
            member.go_on()
        await eventually(client, b"a", b"3")


async def test_a_killed_member_ends_every_call(one: Cluster) -> None:
    """Each stream and each call, at once; a write may have been done. Then it is back, and so are we."""
    (member,) = one.members
    async with open_client(one.etcd) as client:
        await put(client, b"a", b"1")
        link = await client.links.get()
        stream = link.begin(WATCH, "Watch")
        await stream.send_message(requests.watch(b"a", end_of(b"a"), 1))
        assert await stream.receive_message()  # it has begun
        member.stop()  # so that the call is open when the member is killed
        with trio.fail_after(patient(30)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fails_ambiguously, client)
                await trio.testing.wait_all_tasks_blocked()
                await trio.to_thread.run_sync(member.kill)
            with pytest.raises(UnavailableError):
                await read_to_the_end(stream)
        link.end(stream)
        member.start()
        await eventually(client, b"a", b"2")


async def read_to_the_end(stream: CallStream) -> None:
    while await stream.receive_message():
        pass


async def fails_ambiguously(client: Client) -> None:
    with pytest.raises(StoreUnavailableError) as caught:
        await put(client, b"a", b"?")
    assert caught.value.ambiguous


async def test_a_watch_outlives_its_member(one: Cluster) -> None:
    """It goes on where it was; nothing is missed."""
    (member,) = one.members
    prefix = one.prefix()
    async with open_client(one.etcd) as client, Watch(client, prefix) as watch:
        with trio.fail_after(patient(60)):
            assert isinstance(await watch.receive(), Listed)
            await eventually(client, prefix, b"1")
            await see(watch, b"1")
            assert watch.connected
            await trio.to_thread.run_sync(member.kill)
            member.start()
            await eventually(client, prefix, b"2")
            await see(watch, b"2")


async def see(watch: Watch, value: bytes) -> None:
    """Changes, until one to this value; no list, which could hide that something was missed."""
    while True:
        event = await watch.receive()
        assert isinstance(event, Changed)
        last = event.changes[-1]
        assert isinstance(last, KeyValue)
        if last.value == value:
            return


async def test_a_session_that_etcd_leaves_without_an_answer_ends_here(one: Cluster) -> None:
    """By its own clock, while etcd is stopped; and begins anew when it is back."""
    (member,) = one.members
    key = one.prefix()
    async with open_session(one.etcd, registration(key, b""), ttl=2, keepalive=0.2) as session:
        with trio.fail_after(patient(60)):
            epoch = await session.wait_held()
            member.stop()
            try:
                await wait_lost(session, epoch)
            finally:
                member.go_on()
            assert await session.wait_held() > epoch


async def test_a_full_store_takes_nothing_more_and_gives_what_it_has(one: Cluster) -> None:
    """Who would write more is told, surely; reads and deletions go on. (The last test of this member.)"""
    prefix = one.prefix()
    async with open_client(one.etcd) as client:
        assert not (await fill(client, prefix)).ambiguous
        assert await client.get(prefix + b"0")
        await client.delete(prefix + b"0")
        assert await client.get(prefix + b"0") is None


@pytest.fixture
def three(binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("etcd"), 3, binary=binary) as started:
        yield started


async def test_a_killed_leader_is_a_pause_and_loses_nothing(three: Cluster) -> None:
    """Of three. What was acknowledged is there; then a stopped one; without a second member nothing is done."""
    async with open_client(quick(three.etcd)) as client:
        leader = await leader_of(three)
        acknowledged: dict[bytes, bytes] = {}
        async with trio.open_nursery() as nursery:
            for name in (b"x/", b"y/"):
                nursery.start_soon(write_forty, client, name, acknowledged)
            while len(acknowledged) < 10:
                await trio.sleep(0.001)
            await trio.to_thread.run_sync(leader.kill)
        for key, value in acknowledged.items():
            assert await read(client, key) == value
        leader.start()
        await wait_until_it_answers(three)
        stopped = await leader_of(three)
        stopped.stop()
        try:
            await eventually(client, b"stopped", b"1")
        finally:
            stopped.go_on()
        await trio.to_thread.run_sync(three.members[0].kill)
        await trio.to_thread.run_sync(three.members[1].kill)
        with trio.fail_after(patient(60)):
            await no_leader(client)


async def read(client: Client, key: bytes) -> bytes | None:
    """As often as it takes."""
    with trio.fail_after(patient(60)):
        while True:
            try:
                found = await client.get(key)
            except StoreUnavailableError:
                await trio.sleep(0.05)
            else:
                return found.value if found else None


async def leader_of(three: Cluster) -> Member:
    """Who leads now; on a slow machine that may be another a moment later, or nobody for a while."""
    with trio.fail_after(patient(60)):
        for member in itertools.cycle(three.members):
            async with open_client(three.of([member.endpoint])) as client:
                with contextlib.suppress(StoreUnavailableError):
                    status = await client.status()
                    if status.leader == status.member:
                        return member
            await trio.sleep(0.01)
    raise AssertionError("a cycle has no end")


async def write_forty(client: Client, name: bytes, acknowledged: dict[bytes, bytes]) -> None:
    for number in range(40):
        key = name + b"%d" % number
        await eventually(client, key, key)
        acknowledged[key] = key


async def no_leader(client: Client) -> None:
    """Soon the last member knows that it has no leader, and says so at once: nothing was done, for certain."""
    while True:
        with pytest.raises(StoreUnavailableError) as caught:
            await put(client, b"never", b"")
        if "no leader" in str(caught.value):
            assert not caught.value.ambiguous
            return
        await trio.sleep(0.05)
