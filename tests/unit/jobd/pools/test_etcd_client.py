"""What a client of etcd asks again, and of whom."""

from __future__ import annotations

from typing import cast

import pytest
import trio

from api.errors import DeadlineExceededError, NotFoundError, RpcError, UnavailableError
from api.rpc.channel import Channel
from jobd.pools.etcd.client import Client
from jobd.pools.etcd.endpoints import Endpoint, Etcd
from jobd.pools.etcd.errors import EtcdError
from jobd.pools.etcd.links import Link, Links
from jobd.pools.etcd.transaction import Put, Txn


class FailingLinks:
    """Two members, at each of which every call ends so."""

    where = "a:1"

    def __init__(self, error: RpcError) -> None:
        self._error = error
        self.asked = 0
        self.left = 0

    def __len__(self) -> int:
        return 2

    async def get(self) -> FailingLinks:
        return self

    async def exchange(self, service: str, name: str, request: bytes, timeout: float) -> bytes:
        self.asked += 1
        raise self._error

    def failed(self, link: object) -> None:
        self.left += 1


class UsableChannel:
    """One that nothing is asked of."""

    usable = True


async def test_a_connection_that_fails_while_it_is_given_is_given_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gets it finds that out, as of any that fails a moment later; it does not get none."""
    async with trio.open_nursery() as nursery:
        links = Links(nursery, Etcd((Endpoint("127.0.0.1", 1),), None))
        links._link = link = Link(cast(Channel, UsableChannel()), Endpoint("127.0.0.1", 1))

        async def meanwhile() -> None:
            links.failed(link)

        monkeypatch.setattr("trio.lowlevel.checkpoint", meanwhile)
        assert await links.get() is link
        monkeypatch.undo()


NO_LEADER = UnavailableError("etcdserver: no leader")
LOST = UnavailableError("the connection to the server was lost")
LATE = DeadlineExceededError("too late")


@pytest.mark.parametrize(
    ("error", "writes", "asked", "left"),
    [
        (NO_LEADER, True, 2, 2),
        (LOST, True, 1, 1),
        (LATE, True, 1, 1),
        (NO_LEADER, False, 2, 2),
        (LOST, False, 2, 2),
        (LATE, False, 2, 2),
        (NotFoundError("etcdserver: requested lease not found"), True, 1, 0),
    ],
)
async def test_what_may_have_been_done_is_not_asked_again(error: RpcError, writes: bool, asked: int, left: int) -> None:
    """A write only if it certainly was not done; a read always. Never twice of one member, which is then left."""
    links = FailingLinks(error)
    client = Client(cast(Links, links), 1)
    with pytest.raises(EtcdError) as caught:
        await (client.txn(Txn((), (Put(b"", b""),))) if writes else client.get(b""))
    assert (links.asked, links.left) == (asked, left)
    assert caught.value.ambiguous is (writes and error in (LOST, LATE))
