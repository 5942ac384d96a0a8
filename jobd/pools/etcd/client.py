"""A client of etcd: the transactions and reads of a pool, leases, watches.

What goes wrong comes as :class:`jobd.pools.etcd.errors.EtcdError`. A call that certainly was not done is made again at
the next member, each of which is tried once; so is a read. A write that may have been done is left to the caller, who
alone can look: its error says ``ambiguous``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import trio

from api.background import background_nursery
from api.errors import RpcError
from api.protobuf import MalformedMessageError
from api.rpc.codec import Buffer
from jobd.pools.etcd import answers, endpoints, requests
from jobd.pools.etcd.answers import Range, Status
from jobd.pools.etcd.errors import LEASE_EXISTS, EtcdError, NotEtcdError, StoreUnavailableError, TooLargeError, from_rpc
from jobd.pools.etcd.links import Links
from jobd.pools.etcd.transaction import KeyValue, Outcome, Page, Txn

T = TypeVar("T")

AT_ONCE: Final = 64
"""Calls that are open at a time; further ones wait. etcd's servers allow 250 on a connection, or more."""

KV: Final = "etcdserverpb.KV"
LEASE: Final = "etcdserverpb.Lease"
MAINTENANCE: Final = "etcdserverpb.Maintenance"


class Client:
    """A client of etcd; a :class:`jobd.pools.etcd.transaction.Store`. Made by :func:`open_client`."""

    def __init__(self, links: Links, timeout: float) -> None:
        """
        Args:
            timeout: seconds of a call.
        """
        self.links = links
        self.timeout = timeout
        self._slots = trio.CapacityLimiter(AT_ONCE)

    async def txn(self, txn: Txn) -> Outcome:
        """Do it, at most once.

        Raises:
            EtcdError: it was not done, or (``ambiguous``) nobody knows.
        """
        answer = await self._call(KV, "Txn", requests.txn(txn), writes=True)
        return _read(answers.outcome, answer, writes=True)

    async def get(self, key: bytes) -> KeyValue | None:
        """A key, if it is there (linearizable).

        Raises:
            EtcdError: etcd cannot say.
        """
        found = await self._range(requests.range_(key))
        return found.found[0] if found.found else None

    async def page(self, prefix: bytes, *, after: bytes = b"", revision: int = 0, size: int = 200) -> Page:
        """At most ``size`` keys that begin with a prefix; fewer, when they are large, but one at least.

        Raises:
            EtcdError: etcd cannot say; CompactedError when the revision is no longer kept.
        """
        begin, end = (after + b"\0" if after else prefix), end_of(prefix)
        while True:
            try:
                found = await self._range(requests.range_(begin, end, limit=size, revision=revision))
            except TooLargeError:
                if size == 1:
                    raise
                size //= 2
            else:
                return Page(found.found, revision or found.revision, found.more)

    async def _range(self, request: bytes) -> Range:
        return _read(answers.ranged, await self._call(KV, "Range", request, writes=False), writes=False)

    async def delete(self, key: bytes) -> None:
        """Delete a key, if it is there. Unlike a transaction, which is refused whatever it does, this works in a store
        that is full.

        Raises:
            EtcdError: it was not done, or nobody knows.
        """
        await self._call(KV, "DeleteRange", requests.delete(key), writes=True)

    async def lease_grant(self, lease: int, ttl: int) -> int:
        """Make a lease. To make the same one again is no error, so this may be tried until it has worked.

        Args:
            lease: its id, 1 to 2**63 - 1, which nobody else chooses.
            ttl: seconds.

        Returns:
            its seconds; when it was there already, ``ttl``.

        Raises:
            EtcdError: it was not made, or nobody knows.
        """
        try:
            answer = await self._call(LEASE, "LeaseGrant", requests.lease_grant(lease, ttl), writes=True)
        except EtcdError as exc:
            if isinstance(exc.__cause__, RpcError) and exc.__cause__.message == LEASE_EXISTS:
                return ttl
            raise
        return _read(answers.lease_seconds, answer, writes=True)

    async def lease_keep_alive(self, lease: int) -> int:
        """Begin a lease's time anew: its seconds from now on, 0 when it has ended.

        Raises:
            EtcdError: etcd cannot be asked.
        """
        # A stream of etcd's, with one question and one answer: so each has a deadline, and a member of its own.
        answer = await self._call(LEASE, "LeaseKeepAlive", requests.lease_named(lease), writes=False)
        return _read(answers.lease_seconds, answer, writes=False)

    async def lease_revoke(self, lease: int) -> None:
        """End a lease, and delete its keys.

        Raises:
            EtcdError: it is still there, or nobody knows; LeaseGoneError when it has ended before.
        """
        await self._call(LEASE, "LeaseRevoke", requests.lease_named(lease), writes=True)

    async def status(self) -> Status:
        """How the member is that is asked at present.

        Raises:
            EtcdError: it cannot be asked.
        """
        return _read(answers.status, await self._call(MAINTENANCE, "Status", b"", writes=False), writes=False)

    async def _call(self, service: str, name: str, request: bytes, *, writes: bool) -> Buffer:
        async with self._slots:
            for left in reversed(range(len(self.links))):
                link = await self.links.get()
                try:
                    return await link.exchange(service, name, request, self.timeout)
                except RpcError as exc:
                    error = from_rpc(exc, link.where, writes=writes)
                    if isinstance(error, StoreUnavailableError | NotEtcdError):
                        self.links.failed(link)
                        if left and not error.ambiguous:
                            continue
                    raise error from exc
        raise AssertionError("there is always a member to ask")


def _read(reader: Callable[[Buffer], T], answer: Buffer, *, writes: bool) -> T:
    try:
        return reader(answer)
    except MalformedMessageError as exc:
        raise NotEtcdError("an answer of etcd is not one of its messages", ambiguous=writes) from exc


def end_of(prefix: bytes) -> bytes:
    """The first key after all those that begin with a prefix (etcd's ``range_end``).

    >>> end_of(b"a/")
    b'a0'
    """
    head = prefix.rstrip(b"\xff")
    return head[:-1] + bytes((head[-1] + 1,)) if head else b"\0"


@asynccontextmanager
async def open_client(etcd: endpoints.Etcd, *, first: int | None = None) -> AsyncIterator[Client]:
    """A client for the length of the block. It connects when it is asked for something.

    Args:
        first: the endpoint to begin with; if None, any.
    """
    async with background_nursery() as nursery:
        yield Client(Links(nursery, etcd, first), etcd.limits.call)
