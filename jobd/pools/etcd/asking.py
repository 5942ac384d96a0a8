"""Asking etcd on behalf of somebody who waits: until the answer is known, or it is said that it cannot be had."""

from __future__ import annotations

from typing import Final

import structlog
import trio

from jobd.pools.etcd.client import Client
from jobd.pools.etcd.errors import EtcdError, StoreFullError
from jobd.pools.etcd.mirror import Mirror
from jobd.pools.etcd.transaction import KeyValue, Outcome, Txn
from jobd.worker.errors import PoolFullError, PoolUnavailableError

log = structlog.get_logger(__name__)

TRIES: Final = 10
"""How often a step is sent again whose end nobody knows, or that somebody else was faster than."""
PAUSE: Final = 0.1


class Asking:
    """Of one client, and its mirror."""

    def __init__(self, client: Client, mirror: Mirror) -> None:
        self._client = client
        self._mirror = mirror

    async def sent(self, txn: Txn) -> Outcome:
        """Send a step that may be sent any number of times, until its outcome is known.

        Raises:
            PoolFullError: it was not done, since etcd's quota is used up.
            PoolUnavailableError: it was not done, or nobody knows.
        """
        see_that_it_is_known(self._mirror)  # before, nobody knows whether what is there is a pool that we know
        for left in reversed(range(TRIES)):
            try:
                return await self._client.txn(txn)
            except EtcdError as exc:
                if not left or not exc.ambiguous:
                    log.warning("etcd cannot be written", error=str(exc))
                    raise (PoolFullError if isinstance(exc, StoreFullError) else PoolUnavailableError)() from exc
                await trio.sleep(PAUSE)
        raise AssertionError("it is tried once at least")

    async def read(self, key: bytes) -> KeyValue | None:
        """A key, if it is there.

        Raises:
            PoolUnavailableError: etcd cannot say.
        """
        try:
            return await self._client.get(key)
        except EtcdError as exc:
            log.warning("etcd cannot be read", error=str(exc))
            raise PoolUnavailableError from exc


def see_that_it_is_known(mirror: Mirror) -> None:
    """
    Raises:
        PoolUnavailableError: etcd was not heard of yet, since this server began.
    """
    if not mirror.is_whole:
        raise PoolUnavailableError
