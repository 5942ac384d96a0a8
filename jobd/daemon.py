"""The composition root: everything meets here, and nothing else knows everything.

The order of the nested blocks is the order of shutdown, read from the inside out: calls end, then the broker, then
the jobs (each end recorded), then the store, then the lock on the state directory.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from functools import partial
from typing import Self

import trio

from api.client import parse_address
from api.rpc.server import Handler, router, serve_connection, stack
from api.rpc.stream import TLSStream
from api.tls import server_context
from jobd.broker.broker import open_broker
from jobd.broker.journal import PatientJournal
from jobd.config import Config
from jobd.launcher.local import LocalLauncher
from jobd.middleware.audit import audit
from jobd.middleware.authentication import authenticate
from jobd.middleware.authorization import authorize
from jobd.output.log import LogStore
from jobd.pools.local import open_local_pool
from jobd.service.errors import translate_errors
from jobd.service.job_worker import JobWorkerService
from jobd.storage.directory import hold_directory
from jobd.storage.sqlite import open_store
from jobd.transport.listener import Limits, bind, serve
from jobd.worker.supervisor import Timings


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon, as :func:`run` reports it.

    Attributes:
        address: what it is bound to, as clients write it.
    """

    address: str
    _draining: trio.Event

    @classmethod
    def of(cls, listener: socket.socket, draining: trio.Event) -> Self:
        host, port = listener.getsockname()[:2]
        return cls(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", draining)

    def stop(self) -> None:
        """Begin an orderly end: no new connections and calls; open calls may go on for ``Config.shutdown`` seconds."""
        self._draining.set()


async def run(config: Config, *, task_status: trio.TaskStatus[Daemon] = trio.TASK_STATUS_IGNORED) -> None:
    """Run the daemon until it is stopped or cancelled.

    Raises:
        ConfigError: something that it was told to use cannot be used; nothing was started.
    """
    context = server_context(certificate=config.cert, key=config.key, ca=config.ca)
    timings = Timings(grace=config.grace, drain=config.drain)
    with hold_directory(config.state) as state, bind(*parse_address(config.listen)) as listener:
        async with open_store(state / "jobs.sqlite3") as store:
            journal = PatientJournal(store)
            logs = LogStore(state / "output")
            async with (
                open_local_pool(
                    LocalLauncher(), logs, journal, count=config.workers, slots=config.slots, timings=timings
                ) as workers,
                open_broker(workers, store, journal, logs, max_pending=config.max_pending) as broker,
            ):
                service = JobWorkerService(broker)
                handler = stack([audit, authenticate, authorize, translate_errors], router(service.handlers()))
                await _serve(config, listener, context, handler, task_status)


async def _serve(
    config: Config,
    listener: socket.socket,
    context: ssl.SSLContext,
    handler: Handler,
    task_status: trio.TaskStatus[Daemon],
) -> None:
    draining = trio.Event()

    async def handle(stream: TLSStream) -> None:
        await serve_connection(stream, handler, draining=draining, keepalive=config.keepalive)

    async with trio.open_nursery() as nursery:
        limits = Limits(connections=config.connections)
        nursery.start_soon(partial(serve, listener, lambda: context, limits, handle, draining=draining))
        task_status.started(Daemon.of(listener, draining))
        await draining.wait()
        nursery.cancel_scope.deadline = trio.current_time() + config.shutdown
