"""The connection to etcd at hand: made when it is needed, left for another member when it fails."""

from __future__ import annotations

import trio

from api.rpc.call_stream import CallStream
from api.rpc.channel import Channel
from api.rpc.codec import Buffer
from jobd.pools.etcd.connect import connect
from jobd.pools.etcd.endpoints import Endpoint, Etcd, Rotation
from jobd.pools.etcd.errors import EtcdError, StoreUnavailableError


class Link:
    """A connection to a member. It goes once it was left and nobody uses it."""

    def __init__(self, channel: Channel, endpoint: Endpoint) -> None:
        self.where = str(endpoint)
        self._channel = channel
        self._users = 0
        self._left = False
        self.finished = trio.Event()

    @property
    def usable(self) -> bool:
        return not self._left and self._channel.usable

    async def exchange(self, service: str, name: str, request: bytes, timeout: float) -> Buffer:
        """A call with one answer.

        Raises:
            RpcError: it ended with another status than OK, or the connection was lost.
        """
        self._users += 1
        try:
            return await self._channel.exchange(service, name, request, timeout=timeout)
        finally:
            self._release()

    def begin(self, service: str, name: str) -> CallStream:
        """Begin a call of streams; :meth:`end` ends it.

        Raises:
            UnavailableError: the connection was lost.
        """
        stream = self._channel.begin(service, name)
        self._users += 1
        return stream

    def end(self, stream: CallStream) -> None:
        """Give the call up (RST_STREAM). Never waits."""
        self._channel.end(stream)
        self._release()

    def leave(self) -> None:
        """Make no further calls here; those that are open go on."""
        self._left = True
        self._check()

    def _release(self) -> None:
        self._users -= 1
        self._check()

    def _check(self) -> None:
        if self._left and not self._users:
            self.finished.set()


class Links:
    """Gives a link to whoever wants to make a call."""

    def __init__(self, nursery: trio.Nursery, etcd: Etcd, first: int | None = None) -> None:
        """
        Args:
            nursery: where connections live.
            first: the endpoint to begin with, as for :class:`Rotation`.
        """
        self._nursery = nursery
        self._etcd = etcd
        self._rotation = Rotation(etcd.endpoints, first)
        self._lock = trio.Lock()
        self._link: Link | None = None
        self._rounds = 0
        self._failure: EtcdError | None = None

    def __len__(self) -> int:
        """Members that can be tried."""
        return len(self._rotation)

    async def get(self) -> Link:
        """The link at hand; if there is none, one to the first member that can be reached.

        Raises:
            EtcdError: none can; each was tried once. Nothing was asked of them.
        """
        link = self._link
        if link and link.usable:
            await trio.lowlevel.checkpoint()  # meanwhile it may have failed, and be left
            return link
        rounds = self._rounds
        async with self._lock:
            if self._link and self._link.usable:
                return self._link
            if self._failure and self._rounds != rounds:  # somebody tried them all while we waited
                raise type(self._failure)(str(self._failure)) from self._failure
            if self._link:
                self._link.leave()
            return await self._connect()

    def failed(self, link: Link) -> None:
        """Take another member next, if this is still the link at hand."""
        link.leave()
        if link is self._link:
            self._link = None
            self._rotation.next()

    async def _connect(self) -> Link:
        failures: list[EtcdError] = []
        for endpoint in self._rotation.round():
            try:
                link: Link = await self._nursery.start(self._hold, endpoint)
            except EtcdError as exc:
                failures.append(exc)
            else:
                return link
        self._rounds += 1
        self._failure = _together(failures)
        raise self._failure from failures[-1]

    async def _hold(self, endpoint: Endpoint, *, task_status: trio.TaskStatus[Link]) -> None:
        async with connect(endpoint, self._etcd.tls, self._etcd.limits.connect) as channel:
            # Kept here, so that it is somebody's also when who asked for it is cancelled now.
            link = self._link = Link(channel, endpoint)
            task_status.started(link)
            await link.finished.wait()


def _together(failures: list[EtcdError]) -> EtcdError:
    """Why no member can be reached. Only what all of them say is not for time to heal."""
    kinds = {type(failure) for failure in failures}
    kind = kinds.pop() if len(kinds) == 1 else StoreUnavailableError
    return kind("; ".join(str(failure) for failure in failures))
