"""Keys that begin with a prefix, and what becomes of them: listed first, then followed from the revision after that.

Nothing here grows: the reader pulls, pages are asked for one at a time, and what etcd sends of changes is held by the
window of the stream (4 MiB); the rest waits in etcd. What etcd has compacted in the meantime is listed anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Final, NoReturn, Self

import structlog
import trio

from api.errors import RpcError, UnavailableError
from api.protobuf import MalformedMessageError
from api.retry import Retry
from api.rpc.call_stream import CallStream
from jobd.pools.etcd import requests
from jobd.pools.etcd.answers import Change, Watched, watched
from jobd.pools.etcd.client import Client, end_of
from jobd.pools.etcd.errors import CompactedError, DeniedError, EtcdError, NotEtcdError, StoreUnavailableError, from_rpc
from jobd.pools.etcd.links import Link
from jobd.pools.etcd.transaction import KeyValue

WATCH: Final = "etcdserverpb.Watch"
PAGE: Final = 200
"""Keys that are listed at a time: many more at once hold up everything else here while they are read."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of the keys that are there.

    Attributes:
        first: what was listed before counts no more: this is a new list.
        last: the list is whole, as of ``revision``; keys that are not in it are not there.
    """

    found: tuple[KeyValue, ...]
    revision: int
    first: bool
    last: bool


@dataclass(frozen=True, slots=True)
class Changed:
    """Keys that were written (as they are now) or deleted, in the order in which that was done.

    After an interruption some may come a second time.
    """

    changes: tuple[Change, ...]


class Watch:
    """A watch on a prefix. It goes on by itself after whatever happens to etcd or the connection.

    Attributes:
        connected: what comes is at most a moment old. When it is not, etcd cannot be reached, and what is known of
            it may be old.
    """

    def __init__(self, client: Client, prefix: bytes, *, page: int = PAGE) -> None:
        """
        Args:
            page: keys in a page of the list.
        """
        self._client = client
        self._prefix = prefix
        self._name = prefix.decode(errors="replace")
        self._page = page
        self._retry = Retry(float("inf"))
        self._link: Link | None = None
        self._stream: CallStream | None = None
        self._told = ""
        self._list_anew()
        self.connected = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def _list_anew(self) -> None:
        self._next = 0  # the revision that the stream is to begin with, once the list is whole
        self._after = b""  # the last key that was listed
        self._revision = 0  # of the list

    async def receive(self) -> Listed | Changed:
        """The next page of the list, or the next changes. May be cancelled and called again; nothing is lost.

        Raises:
            EtcdError: one that time does not heal: etcd's access rules, or a certificate, refuse it.
        """
        while True:
            try:
                event = await (self._receive_changes() if self._next else self._receive_page())
            except CompactedError:
                log.info("etcd has compacted what a watch was to begin with; listing anew", prefix=self._name)
                self._end()
                self._list_anew()
            except (StoreUnavailableError, NotEtcdError) as exc:
                self._end()
                self._tell(exc)
                await self._retry.pause()
            except EtcdError:
                self._end()
                raise
            else:
                if event:
                    return event

    def _tell(self, exc: EtcdError) -> None:
        """Once for each reason: it may be tried many times."""
        if str(exc) != self._told:
            self._told = str(exc)
            log.warning("a watch on etcd was interrupted", prefix=self._name, reason=self._told)

    async def _receive_page(self) -> Listed:
        page = await self._client.page(self._prefix, after=self._after, revision=self._revision, size=self._page)
        first, self._revision = not self._revision, page.revision
        if page.more:
            self._after = page.found[-1].key
        else:
            self._next = page.revision + 1
        return Listed(page.found, page.revision, first, not page.more)

    async def _receive_changes(self) -> Changed | None:
        if self._stream is None:
            await self._begin()
        answer = await self._answer()
        if answer.canceled:
            self._canceled(answer)
        if not answer.changes:
            # Created, or a sign of progress. The latter would let us begin later after an interruption, but etcd
            # before 3.5.8 could say so before it had sent everything (etcd-io/etcd#15220).
            return None
        # Further changes of the last revision may be in the next fragment: then we would begin with that one again.
        self._next = answer.changes[-1].modified + (not answer.fragment)
        return Changed(answer.changes)

    async def _begin(self) -> None:
        self._link = await self._client.links.get()
        try:
            self._stream = self._link.begin(WATCH, "Watch")
        except UnavailableError as exc:
            self._failed(exc)
        try:
            with trio.fail_after(self._client.timeout):
                await self._stream.send_message(requests.watch(self._prefix, end_of(self._prefix), self._next))
                answer = await self._answer()
        except trio.TooSlowError as exc:
            self._client.links.failed(self._link)
            raise StoreUnavailableError(f"the etcd at {self._link.where} began no watch in time") from exc
        except trio.Cancelled:
            self._end()  # a part of the question may have been sent
            raise
        if answer.canceled:
            self._canceled(answer)
        if answer.revision + 1 < self._next:
            # A store that was restored from an older copy would be silent until it is as far again. Or this member
            # is late; then it is not any more once it has listed.
            self._list_anew()
            raise StoreUnavailableError(f"the etcd at {self._link.where} is not as far as it was")
        self.connected = True
        self._told = ""
        self._retry.reset()

    async def _answer(self) -> Watched:
        assert self._stream
        assert self._link
        try:
            data = await self._stream.receive_message()
            if data is None:
                raise UnavailableError("the watch was ended")
            return watched(data)
        except RpcError as exc:
            self._failed(exc)
        except MalformedMessageError as exc:
            raise NotEtcdError("an answer of etcd is not one of its messages") from exc

    def _failed(self, exc: RpcError) -> NoReturn:
        assert self._link
        self._client.links.failed(self._link)
        raise from_rpc(exc, self._link.where, writes=False) from exc

    def _canceled(self, answer: Watched) -> NoReturn:
        if answer.compacted:
            raise CompactedError("the revision was compacted")
        if "permission denied" in answer.reason.lower():  # there is no code to tell
            raise DeniedError("etcd does not let our CN watch this: see its roles")
        raise StoreUnavailableError("etcd ended a watch")

    def _end(self) -> None:
        """Give the stream up, if there is one."""
        if self._stream and self._link:
            self._link.end(self._stream)
        self._stream = self._link = None
        self.connected = False
