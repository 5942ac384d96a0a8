"""Parts of a daemon that are there if they are asked for. What they take is not loaded else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from api.address import parse_address
from api.rpc.server import Handler, Middleware
from jobd.broker.admission import Policy
from jobd.broker.broker import Broker
from jobd.config import Config
from jobd.middleware.authentication import authenticate
from jobd.service.job_worker import JobWorkerService
from jobd.storage.sqlite import SqliteStore
from jobd.transport.listener import resolve
from jobd.worker.worker import Worker

if TYPE_CHECKING:
    from jobd.audit.log import AuditLog
    from jobd.metrics.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Service:
    """How calls about jobs are answered.

    Attributes:
        middleware: who calls, and for whom.
    """

    handlers: Mapping[str, Handler]
    middleware: tuple[Middleware, ...] = (authenticate,)


@asynccontextmanager
async def service_of(
    config: Config, broker: Broker, store: SqliteStore, workers: Sequence[Worker], policy: Policy
) -> AsyncIterator[Service]:
    """The service of this machine alone, or of a broker of a pool: what that takes is not loaded else.

    Raises:
        ConfigError: the pool's settings cannot be used.
    """
    service = JobWorkerService(broker, config.heartbeat, pooled=bool(config.pool))
    if not config.pool:
        yield Service(service.handlers())
        return
    from jobd.middleware.delegation import act_for
    from jobd.pooled import open_pooled

    async with open_pooled(config, broker, store, workers, policy, service) as pooled:
        yield Service(pooled.handlers(), (authenticate, act_for))


@asynccontextmanager
async def audit_log_of(config: Config, state: Path) -> AsyncIterator[AuditLog | None]:
    """The audit log, if it is to be in a file of its own.

    Raises:
        ConfigError: it cannot be.
    """
    if config.audit_log is None:
        yield None
        return
    from jobd.audit.log import open_audit_log

    async with open_audit_log(config.audit_log, state / "audit") as opened:
        yield opened


def judge_addresses(config: Config) -> None:
    """See that jobd may be where it is to be, as far as that shows while another has the sockets. Blocks.

    Raises:
        ConfigError: a new server would be refused, or go on without metrics.
    """
    resolve(*parse_address(config.listen))
    if config.metrics:
        from jobd.metrics.http import resolve_metrics

        resolve_metrics(*parse_address(config.metrics), anywhere=config.metrics_anywhere)
    if config.metrics_file:
        from jobd.metrics.metrics import check_file

        check_file(config.metrics_file)


@contextmanager
def metrics_of(config: Config, *, restarted: bool) -> Iterator[Metrics | None]:
    """The metrics, if they are wanted: what it takes to tell them is not loaded else.

    Raises:
        ConfigError: they cannot be had.
    """
    if not config.metrics and not config.metrics_file:
        yield None
        return
    from jobd.metrics.metrics import Metrics

    with closing(Metrics(config, restarted=restarted)) as metrics:
        yield metrics
