"""Lists that are followed: nothing is missed, whatever happens in between, and nothing grows."""

from __future__ import annotations

import http.client
import ssl

import trio

from api.rpc.windows import STREAM_WINDOW
from jobd.pools.etcd.answers import Deleted
from jobd.pools.etcd.client import Client, open_client
from jobd.pools.etcd.transaction import Delete, Txn
from jobd.pools.etcd.watch import Changed, Listed, Watch
from tests.integration.etcd.test_store import MIB, compact, put
from tests.support.etcd import Cluster
from tests.support.patience import patient


async def changes(watch: Watch, count: int) -> list[tuple[bytes, bytes | None]]:
    """So many: the key, and its value or None."""
    found: list[tuple[bytes, bytes | None]] = []
    with trio.fail_after(patient(30)):
        while len(found) < count:
            event = await watch.receive()
            assert isinstance(event, Changed)
            found += [(at.key, None if isinstance(at, Deleted) else at.value) for at in event.changes]
    return found


async def test_what_is_written_after_the_list_is_followed(client: Client, prefix: bytes) -> None:
    """Also what is written before the stream begins; other prefixes are not."""
    await put(client, prefix + b"a", b"1")
    async with Watch(client, prefix) as watch:
        listed = await watch.receive()
        assert isinstance(listed, Listed)
        assert (listed.first, listed.last) == (True, True)
        assert [at.value for at in listed.found] == [b"1"]
        await put(client, prefix + b"a", b"2")
        await put(client, prefix[:-1] + b"0", b"of somebody else")
        assert await changes(watch, 1) == [(prefix + b"a", b"2")]
        await client.txn(Txn((), (Delete(prefix + b"a"),)))
        await put(client, prefix + b"b", b"3")
        assert await changes(watch, 2) == [(prefix + b"a", None), (prefix + b"b", b"3")]


async def test_all_of_it_goes_without_tls_too(etcd: Cluster, prefix: bytes) -> None:
    """Over loopback: calls, a stream, and a value that takes several writes and reads."""
    async with open_client(etcd.plaintext) as client, Watch(client, prefix) as watch:
        await watch.receive()
        await put(client, prefix, b"x" * MIB)
        assert await changes(watch, 1) == [(prefix, b"x" * MIB)]


async def test_a_long_list_comes_in_pages_of_one_revision(client: Client, prefix: bytes) -> None:
    """The first says that it is the first, the last that it is the last, and the stream begins after all of them."""
    for number in range(5):
        await put(client, prefix + b"%d" % number, b"")
    async with Watch(client, prefix, page=2) as watch:
        pages = [await watch.receive()]
        await put(client, prefix + b"9", b"later")
        pages += [await watch.receive(), await watch.receive()]
        assert [(len(p.found), p.first, p.last) for p in pages if isinstance(p, Listed)] == [
            (2, True, False),
            (2, False, False),
            (1, False, True),
        ]
        assert await changes(watch, 1) == [(prefix + b"9", b"later")]


async def test_what_was_compacted_is_listed_anew(client: Client, prefix: bytes) -> None:
    """etcd says so in the stream: nothing is missed, though it is not told one by one."""
    await put(client, prefix + b"gone", b"1")
    async with Watch(client, prefix) as watch:
        await watch.receive()
        await client.txn(Txn((), (Delete(prefix + b"gone"),)))
        await compact(client, await put(client, prefix + b"a", b"2"))
        with trio.fail_after(patient(30)):
            listed = await watch.receive()
        assert isinstance(listed, Listed)
        assert (listed.first, listed.last) == (True, True)
        assert [at.key for at in listed.found] == [prefix + b"a"]
        await put(client, prefix + b"a", b"3")
        assert await changes(watch, 1) == [(prefix + b"a", b"3")]


async def test_a_compaction_between_two_pages_begins_the_list_anew(client: Client, prefix: bytes) -> None:
    """A list is of one revision, or none."""
    for number in range(3):
        await put(client, prefix + b"%d" % number, b"")
    async with Watch(client, prefix, page=2) as watch:
        await watch.receive()
        await compact(client, await put(client, prefix + b"0", b"new"))
        again = await watch.receive()
        assert isinstance(again, Listed)
        assert again.first
        assert again.found[0].value == b"new"


async def test_a_store_that_went_back_is_listed_anew(client: Client, prefix: bytes) -> None:
    """As after a restore: it would be silent until it is as far again."""
    async with Watch(client, prefix) as watch:
        await watch.receive()
        watch._next += 1000
        with trio.fail_after(patient(30)):
            listed = await watch.receive()
        assert isinstance(listed, Listed)
        assert listed.first
        await put(client, prefix, b"1")
        assert await changes(watch, 1) == [(prefix, b"1")]


async def test_a_cancelled_receive_loses_nothing(client: Client, prefix: bytes) -> None:
    """A reader may look at other things in between."""
    async with Watch(client, prefix) as watch:
        await watch.receive()
        with trio.move_on_after(0):
            await watch.receive()
        await put(client, prefix + b"a", b"1")
        with trio.CancelScope() as scope:
            scope.cancel()
            await watch.receive()
        assert scope.cancelled_caught
        assert await changes(watch, 1) == [(prefix + b"a", b"1")]


async def test_a_reader_that_does_not_read_holds_no_more_than_a_window(client: Client, prefix: bytes) -> None:
    """The rest waits in etcd, and comes when it is asked for."""
    async with Watch(client, prefix) as watch:
        await watch.receive()
        await put(client, prefix + b"first", b"")
        assert await changes(watch, 1)
        for number in range(8):
            await put(client, prefix + b"%d" % number, b"x" * MIB)
            assert watch._stream
            assert watch._stream.unread <= STREAM_WINDOW
        assert [key for key, _ in await changes(watch, 8)] == [prefix + b"%d" % number for number in range(8)]
    await client.txn(Txn((), tuple(Delete(prefix + b"%d" % number) for number in range(8))))


async def test_a_watch_that_is_left_ends_in_etcd(etcd: Cluster, client: Client, prefix: bytes) -> None:
    """The stream is reset: etcd has no watcher any more."""
    await until_watchers_are(etcd, 0)  # those of other tests, too
    async with Watch(client, prefix) as watch:
        await watch.receive()
        await put(client, prefix, b"")
        await changes(watch, 1)
        await until_watchers_are(etcd, 1)
    await until_watchers_are(etcd, 0)
    assert (await client.links.get()).usable  # it was not the connection that ended


async def until_watchers_are(etcd: Cluster, count: int) -> None:
    with trio.fail_after(patient(30)):
        while await trio.to_thread.run_sync(watchers, etcd) != count:
            await trio.sleep(0.01)


def watchers(etcd: Cluster) -> int:
    """How many etcd has, as its metrics say."""
    member = etcd.members[0].endpoint
    context = ssl.create_default_context(cafile=etcd.directory / "ca.crt")
    context.load_cert_chain(etcd.directory / "machine.crt", etcd.directory / "machine.key")
    connection = http.client.HTTPSConnection(member.host, member.port, context=context, timeout=patient(30))
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    (line,) = (line for line in text.splitlines() if line.startswith("etcd_debugging_mvcc_watcher_total "))
    return int(float(line.split()[1]))
