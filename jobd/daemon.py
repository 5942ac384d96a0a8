"""The composition root: everything meets here, and nothing else knows everything.

The order of the nested blocks is the order of shutdown, read from the inside out: calls end, then the broker, then
the jobs (each end recorded), then the store, then the lock on the state directory.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import structlog
import trio

from api.address import parse_address
from api.errors import ConfigError
from api.rpc.server import Handler, router, serve_connection, stack, turn_away
from api.rpc.statistics import Connections
from api.rpc.stream import TLSStream
from jobd.broker.admission import Policy
from jobd.broker.broker import Broker
from jobd.broker.journal import PatientJournal
from jobd.broker.recovery import open_broker
from jobd.broker.retention import Keep, Retention
from jobd.config import Config
from jobd.launcher import control, protocol
from jobd.launcher.link import LauncherLink, open_link
from jobd.machine import what_there_is
from jobd.middleware.audit import audit_in_log, audit_into
from jobd.middleware.authorization import authorize
from jobd.middleware.draining import Draining
from jobd.middleware.outcomes import observed
from jobd.middleware.quotas import Quotas
from jobd.output.budget import Budget
from jobd.output.log import LogStore
from jobd.parts import audit_log_of, metrics_of, service_of
from jobd.pools.local import open_local_pool
from jobd.service.errors import translate_errors
from jobd.service.health import HealthService
from jobd.service.reflection import ReflectionService
from jobd.storage.directory import STORE, Held, HeldError, check_restored, hold_directory
from jobd.storage.sqlite import SqliteStore, open_store
from jobd.transport.listener import Limits, bind_or_take, serve, take
from jobd.trust.files import Files
from jobd.trust.live import MAX_TOLD, LiveTrust
from jobd.unprivileged import acting_as, give_up, make_state, server_user
from jobd.worker.errors import LauncherGoneError
from jobd.worker.identity import Identity
from jobd.worker.ports import Launcher
from jobd.worker.supervisor import Timings

if TYPE_CHECKING:
    from jobd.metrics.metrics import Metrics

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon, as :func:`run` reports it.

    Attributes:
        address: what it is bound to, as clients write it.
        connections: those of its clients.
        quotas: what its principals ask for.
        metrics: where they are told, or to be told.
    """

    address: str
    connections: Connections
    quotas: Quotas
    metrics: Metrics | None
    _draining: trio.Event
    _link: LauncherLink | None

    @classmethod
    def of(
        cls,
        listener: socket.socket,
        quotas: Quotas,
        metrics: Metrics | None,
        draining: trio.Event,
        link: LauncherLink | None,
    ) -> Self:
        host, port = listener.getsockname()[:2]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return cls(address, Connections(), quotas, metrics, draining, link)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """In the block whoever waits for this daemon is told that it is there. One that is killed in it may have been
        heard, or not: the next one tells it again. Behind it, none does."""
        if self._link:
            self._link.saying()
        yield
        if self._link:
            self._link.ready()

    def stop(self) -> None:
        """Begin an orderly end: no new connections and calls; open calls may go on for ``Config.shutdown`` seconds."""
        self._draining.set()


async def run(
    config: Config,
    *,
    launcher_fd: int | None = None,
    task_status: trio.TaskStatus[Daemon] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the daemon until it is stopped or cancelled.

    Args:
        launcher_fd: the socket to the launcher whose server this is. Without one, jobs are children of this process,
            and end with it.

    Raises:
        ConfigError: something that it was told to use cannot be used; nothing was started.
        ServedElsewhereError: another launcher has the state directory, and serves the front from now on.
    """
    # Whoever is refused may not take a place from whoever is not.
    told = min(MAX_TOLD, max(config.connections // 8, 1))
    trust = LiveTrust(files_of(config), demanding=config.crl_policy == "hard-fail", told=told)
    who = server_user(config)
    containment, means = await trio.to_thread.run_sync(what_there_is, config)
    if launcher_fd is None:
        if who:
            raise ConfigError("--user: a jobd whose jobs end with it cannot become another user")
        from jobd.launcher.local import LocalLauncher  # the program has a launcher

        await _run(config, trust, LocalLauncher(containment, means), None, task_status)
        return
    async with open_link(launcher_fd, containment, means) as link:
        await _run(config, trust, link, link, task_status)


async def _run(
    config: Config,
    trust: LiveTrust,
    launcher: Launcher,
    link: LauncherLink | None,
    task_status: trio.TaskStatus[Daemon],
) -> None:
    kept = dict(link.kept) if link else {}
    who = server_user(config)
    draining = trio.Event()

    def ends_jobs() -> bool:
        """Only an orderly stop that is to end them does; else the launcher has them for the next server."""
        if link is None:
            return True
        return draining.is_set() and not link.leave.is_set() and (config.stop_jobs or link.end)

    with (
        _hold(config.state, kept.get("lock"), link, who) as held,
        closing(launcher.containment),
        _listener(config, kept.get(protocol.LISTENER), given=bool(link and link.given)) as listener,
        metrics_of(config, restarted="lock" in kept) as metrics,
    ):
        if link:
            link.keep("lock", held.lock)
            link.keep(protocol.LISTENER, listener.fileno())
            _open_door(link, held.path, who)
            if who:
                await give_up(link, config, who)
        trust.pin()
        policy = Policy(config.limits, config.run_as, config.quota)
        # A server that comes after another one goes on with what that one had looked at.
        async with (
            audit_log_of(config, held.path) as audit_log,
            open_store(held.path / STORE, trusted="lock" in kept) as store,
        ):
            journal = PatientJournal(store)
            logs = LogStore(held.path / "output", config.max_output, Budget(config.keep_output))
            timings = Timings(grace=config.grace, drain=config.drain)
            async with (
                open_local_pool(
                    launcher,
                    logs,
                    journal,
                    count=config.workers,
                    slots=config.slots,
                    timings=timings,
                    name=(config.worker_name or socket.gethostname()) if config.pool else "local",
                    ends_jobs=ends_jobs,
                ) as workers,
                open_broker(workers, store, journal, logs, max_pending=config.max_pending, policy=policy) as broker,
                AsyncExitStack() as more,
            ):
                health = HealthService([draining, link.gone] if link else [draining])
                lasting = Draining(draining)
                quotas = Quotas(config.quota)
                say = audit_into(audit_log.put) if audit_log else audit_in_log()
                watch = observed([say, metrics.calls.observe] if metrics else [say])
                pooled = await more.enter_async_context(service_of(config, broker, store, workers, policy))
                handler = stack(
                    [watch, *pooled.middleware, quotas.middleware, authorize, lasting.middleware, translate_errors],
                    router({**pooled.handlers, **health.handlers(), **ReflectionService().handlers()}),
                )
                keep = Keep(config.keep_days * 86400, config.keep_jobs, config.keep_output)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(lasting.run)
                    nursery.start_soon(trust.run)
                    nursery.start_soon(Retention(store, logs, keep, logs.budget).run)
                    if link:
                        await _acknowledge(link, store)
                        nursery.start_soon(_outlive, link, broker, held, draining, config.shutdown)
                        nursery.start_soon(_leave_when_told, link, draining)
                    held_by = launcher.containment
                    means = launcher.means
                    log.info("jobs are held together", by=held_by.name, weaknesses=list(held_by.weaknesses))
                    log.info("jobs can be isolated", by=means.available, weaknesses=list(means.weaknesses))
                    live = frozenset(job.id for view in broker.workers() for job in view.jobs)
                    await trio.to_thread.run_sync(held_by.sweep, live)
                    daemon = Daemon.of(listener, quotas, metrics, draining, link)
                    if metrics:
                        telling = metrics.of(
                            connections=daemon.connections,
                            quotas=quotas,
                            broker=broker,
                            store=store,
                            budget=logs.budget,
                            trust=trust,
                            draining=draining,
                            launcher_gone=link.gone if link else None,
                            audit_log=audit_log,
                        )
                        nursery.start_soon(telling)
                    try:
                        await _serve(config, listener, trust, handler, daemon, draining, task_status)
                    finally:
                        journal.hurry()
                    nursery.cancel_scope.cancel()
        if link and link.gone.is_set():
            raise LauncherGoneError


def files_of(config: Config) -> Files:
    """Where certificates, keys and lists are."""
    return Files(config.cert, config.key, config.ca, config.key_passphrase_file, config.crl)


def _listener(config: Config, kept: int | None, *, given: bool) -> socket.socket:
    """The listening socket: from whoever started jobd, from a server before this one, or a new one.

    Raises:
        ConfigError: what was given is none, there is none to be had, or --listen is no address, used or not.
    """
    host, port = parse_address(config.listen)
    if not given or kept is None:
        return bind_or_take(host, port, kept)
    listener = take(kept)
    log.info("the socket to listen on was given by who started jobd: --listen is not used", listen=config.listen)
    return listener


@contextmanager
def _hold(path: Path, kept: int | None, link: LauncherLink | None, who: Identity | None) -> Iterator[Held]:
    """Hold the state directory, or let the front be served by the launcher that holds it.

    Raises:
        ServedElsewhereError: that is done.
    """
    make_state(path, who)
    try:
        with ExitStack() as stack:
            with acting_as(who):
                held = stack.enter_context(hold_directory(path, kept, os.getppid() if link else None))
                check_restored(path)
            yield held
    except HeldError as exc:
        if link is None:
            raise
        try:
            other = control.connect(path)
        except OSError:
            raise exc from None  # a server whose launcher was killed sees its jobs out, or 'jobd dev'
        with other:
            if protocol.peer_of(other) != os.geteuid():  # it would be given our environment
                raise exc from None
            link.go_elsewhere(str(path), exc.holder, other)
        raise control.ServedElsewhereError from exc


def _open_door(link: LauncherLink, path: Path, who: Identity | None) -> None:
    """See that the launcher can be found in the state directory."""
    if protocol.CONTROL in link.kept:
        os.close(link.kept[protocol.CONTROL])
        if who is None and control.is_there(path):  # else an earlier server's may be there, and not the launcher's
            return
    try:
        with acting_as(who):
            door = control.bind(path)
        with door:
            door.listen(control.BACKLOG)
            link.keep(protocol.CONTROL, door.fileno())
    except OSError as exc:
        raise ConfigError(f"{path / control.NAME} cannot be made: {exc.strerror}") from exc


async def _acknowledge(link: LauncherLink, store: SqliteStore) -> None:
    """Let the launcher forget the jobs whose end an earlier server had recorded, and did not live to acknowledge.

    One that the store does not know any more had ended too, or it could not have been deleted.
    """
    for job_id in list(link.adopted):
        job = await store.get(job_id)
        if job is None or job.state.terminal:
            link.release_adopted(job_id)


async def _leave_when_told(link: LauncherLink, draining: trio.Event) -> None:
    await link.leave.wait()
    draining.set()


async def _outlive(link: LauncherLink, broker: Broker, held: Held, draining: trio.Event, pause: float) -> None:
    """When the launcher has ended: see the jobs out that it had started, let followers hear of that, then end too."""
    await link.gone.wait()
    held.name_holder(os.getpid())
    broker.refuse_new(LauncherGoneError())
    await broker.wait_until_idle()
    await trio.sleep(pause)
    draining.set()


async def _serve(
    config: Config,
    listener: socket.socket,
    trust: LiveTrust,
    handler: Handler,
    daemon: Daemon,
    draining: trio.Event,
    task_status: trio.TaskStatus[Daemon],
) -> None:
    async def handle(stream: TLSStream) -> None:
        with trust.admitted(stream.verified_chain, stream.peer) as access, ExitStack() as counted:
            # Whoever comes refused has nothing of the principal's, who may have another certificate by now.
            quota = daemon.quotas.connection(stream.peer_certificate)
            if not access.refusal and not counted.enter_context(quota):
                await turn_away(stream)
                return
            await serve_connection(
                stream,
                handler,
                draining=draining,
                keepalive=config.keepalive,
                connections=daemon.connections,
                access=access,
            )

    async with trio.open_nursery() as nursery:
        limits = Limits(connections=config.connections)
        refused = daemon.connections.refuse_handshake
        accepting = partial(serve, listener, lambda: trust.trust.context, limits, handle, draining=draining)
        nursery.start_soon(partial(accepting, refused=refused))
        task_status.started(daemon)
        await draining.wait()
        nursery.cancel_scope.deadline = trio.current_time() + config.shutdown
