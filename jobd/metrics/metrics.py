"""What ``--metrics`` and ``--metrics-file`` are, from the settings to the tasks."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import trio

from api.address import parse_address
from api.errors import ConfigError
from api.rpc.statistics import Connections
from jobd.audit.log import AuditLog
from jobd.broker.broker import Broker
from jobd.config import Config
from jobd.metrics.calls import Calls
from jobd.metrics.catalogue import COMMIT_BOUNDS, Sources
from jobd.metrics.durations import Histogram
from jobd.metrics.exposition import Exposition
from jobd.metrics.http import bind_metrics, serve_metrics
from jobd.metrics.textfile import keep_written
from jobd.middleware.quotas import Quotas
from jobd.output.budget import Budget
from jobd.storage.sqlite import SqliteStore
from jobd.trust.live import LiveTrust

log = structlog.get_logger(__name__)

RETRY: Final = 5.0
"""Seconds between two attempts to have an address that somebody else has."""


class Metrics:
    """Made before the server is: what cannot be had is said then.

    Attributes:
        calls, commits: what nobody else counts.
        address: where they are served, once they are; else "".
    """

    def __init__(self, config: Config, *, restarted: bool) -> None:
        """
        Args:
            restarted: another server was here before. Then an address that is taken now keeps this one from nothing.

        Raises:
            ConfigError: what the settings say cannot be had.
        """
        self.calls = Calls()
        self.commits = Histogram(COMMIT_BOUNDS)
        self.address = ""
        self._anywhere = config.metrics_anywhere
        self._where = parse_address(config.metrics) if config.metrics else None
        self._file = config.metrics_file
        self._interval = config.metrics_interval
        self._slots, self._max_pending = config.workers * config.slots, config.max_pending
        self._listener: socket.socket | None = None
        if self._file:
            check_file(self._file)
        try:
            self._bind()
        except ConfigError as exc:
            if not restarted:
                raise
            log.error("metrics cannot be served now", error=str(exc))

    def _bind(self) -> None:
        if self._where:
            self._listener = bind_metrics(*self._where, anywhere=self._anywhere)
            host, port = self._listener.getsockname()[:2]
            self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def of(
        self,
        *,
        connections: Connections,
        quotas: Quotas,
        broker: Broker,
        store: SqliteStore,
        budget: Budget,
        trust: LiveTrust,
        draining: trio.Event,
        launcher_gone: trio.Event | None,
        audit_log: AuditLog | None,
    ) -> Callable[[], Awaitable[None]]:
        """The task that tells what these are like, until cancelled. Whatever goes wrong in it, the server goes on.

        Args:
            launcher_gone: None without a launcher.
            audit_log: None when it is a part of the log.
        """
        store.on_commit = self.commits.observe
        sources = Sources(
            calls=self.calls,
            commits=self.commits,
            connections=connections,
            quotas=quotas,
            broker=broker,
            store=store,
            budget=budget,
            trust=trust,
            draining=draining,
            launcher_gone=launcher_gone,
            audit_log=audit_log,
            slots=self._slots,
            max_pending=self._max_pending,
        )
        return partial(self._run, sources)

    async def _run(self, sources: Sources) -> None:
        try:
            exposition = Exposition(sources)
            async with trio.open_nursery() as nursery:
                if self._where:
                    nursery.start_soon(self._serve, exposition)
                if self._file:
                    nursery.start_soon(keep_written, self._file, self._interval, exposition.text)
        except Exception as exc:  # the border: monitoring must not end what it looks at
            log.error("there are no metrics any more", exc_info=exc)

    async def _serve(self, exposition: Exposition) -> None:
        while self._listener is None:
            await trio.sleep(RETRY)
            try:
                self._bind()
            except ConfigError:
                continue
        log.info("metrics are served", address=self.address)
        await serve_metrics(self._listener, exposition.text)

    def close(self) -> None:
        """Let go of the address."""
        if self._listener:
            self._listener.close()


def check_file(path: Path) -> None:
    """See that it can be one.

    Raises:
        ConfigError: it cannot.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"--metrics-file {path}: there is no directory {path.parent}")
    if path.is_dir():
        raise ConfigError(f"--metrics-file {path}: that is a directory; name a file in it, like jobd.prom")
