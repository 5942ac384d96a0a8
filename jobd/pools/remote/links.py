"""Connections to the other machines of the pool: made by the first call that needs one, and made anew when lost."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from api.address import parse_address
from api.background import background_nursery
from api.errors import ConfigError, RpcError, UnavailableError
from api.rpc.channel import Channel, open_channel
from api.rpc.windows import SEPARATE, USUAL

log = structlog.get_logger(__name__)

CONNECT: Final = 2.0
"""Seconds for a connection, its handshake included."""
MOST: Final = 512
"""Calls on one connection; a server of ours takes twice as many."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where another machine is.

    Attributes:
        name: of its worker; the certificate of its server has to be valid for this name.
        address: ``host:port``.
    """

    name: str
    address: str


class _Link:
    """A connection, and how many calls are open on it."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.open = 0

    @property
    def takes_more(self) -> bool:
        return self.channel.usable and self.open < MOST


class _Place:
    """The connections of one kind to one machine; only one is made at a time.

    Attributes:
        failures: how often none could be made. Who waited while somebody tried does not try once more: behind a machine
            that says nothing each of many would wait for all those before.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.connecting = trio.Lock()
        self.links: list[_Link] = []

    @property
    def in_use(self) -> bool:
        return bool(self.links) or self.connecting.locked()


class Links:
    """Made by :func:`open_links`."""

    def __init__(self, nursery: trio.Nursery, context: Callable[[], ssl.SSLContext]) -> None:
        self._nursery = nursery
        self._context = context
        self._places: dict[tuple[Machine, bool], _Place] = {}

    @asynccontextmanager
    async def to(self, machine: Machine, *, lasting: bool) -> AsyncIterator[Channel]:
        """A connection for one call; the block is the life of the call.

        Args:
            lasting: the call's answers are taken at the pace of somebody else. Such calls have connections of their
                own, on which one that is not read from holds up no other, and no short one.

        Raises:
            UnavailableError: the machine cannot be reached, is another one, or refuses us (WORKER_UNREACHABLE).
        """
        place = self._place(machine, lasting)
        failures = place.failures
        async with place.connecting:
            link = next((link for link in place.links if link.takes_more), None)
            if link is None:
                if place.failures != failures:
                    raise unreachable(machine)
                link = await self._connect(machine, lasting)
            link.open += 1
        try:
            yield link.channel
        finally:
            link.open -= 1

    def _place(self, machine: Machine, lasting: bool) -> _Place:
        if (machine, lasting) not in self._places:
            # Machines come and go, and each may come back under another address.
            self._places = {key: place for key, place in self._places.items() if place.in_use}
            self._places[machine, lasting] = _Place()
        return self._places[machine, lasting]

    async def _connect(self, machine: Machine, lasting: bool) -> _Link:
        try:
            link: _Link = await self._nursery.start(self._hold, machine, lasting)
        except (RpcError, ConfigError) as exc:
            self._places[machine, lasting].failures += 1
            log.warning("a worker cannot be reached", worker=machine.name, address=machine.address, error=str(exc))
            raise unreachable(machine) from exc
        return link

    async def _hold(self, machine: Machine, lasting: bool, task_status: trio.TaskStatus[_Link]) -> None:
        links = self._places[machine, lasting].links
        host, port = parse_address(machine.address)
        windows = SEPARATE if lasting else USUAL
        context = await trio.to_thread.run_sync(self._context)
        async with open_channel(
            host, port, context, timeout=CONNECT, server_name=machine.name, windows=windows
        ) as channel:
            link = _Link(channel)
            links.append(link)
            try:
                task_status.started(link)
                await channel.lost()
            finally:
                links.remove(link)


def unreachable(machine: Machine) -> UnavailableError:
    """What a caller is told of a machine that cannot be reached now."""
    return UnavailableError(
        f"the worker {machine.name} cannot be reached now; its jobs go on, call again",
        reason="WORKER_UNREACHABLE",
        metadata={"worker": machine.name},
    )


@asynccontextmanager
async def open_links(context: Callable[[], ssl.SSLContext]) -> AsyncIterator[Links]:
    """The block is the life of all connections.

    Args:
        context: makes the context of a client that is a broker; called anew for each connection, in a thread, so that
            a renewed certificate is used.
    """
    async with background_nursery() as nursery:
        yield Links(nursery, context)
