"""Being in a pool: the parts of it meet here. Loaded with ``--pool`` only."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import betterproto
import structlog
import trio

from api.background import background_nursery
from api.errors import ConfigError
from api.messages import AttachRequest
from api.methods import METHODS
from api.retry import Retry
from api.rpc.server import ServerCall
from api.version import VERSION
from jobd.broker.admission import Policy
from jobd.broker.broker import Broker
from jobd.broker.ports import Store, Worker
from jobd.config import Config
from jobd.pools.etcd import membership
from jobd.pools.etcd import session as sessions
from jobd.pools.etcd.agent import Agent
from jobd.pools.etcd.answers import LOSES
from jobd.pools.etcd.client import Client, open_client
from jobd.pools.etcd.errors import EtcdError, StoreUnavailableError
from jobd.pools.etcd.front import Front
from jobd.pools.etcd.keys import Keys
from jobd.pools.etcd.mirror import Mirror
from jobd.pools.etcd.pool_errors import PoolDataError
from jobd.pools.etcd.records import Member, Session
from jobd.pools.etcd.roster import Roster
from jobd.pools.etcd.session import Register, open_session
from jobd.pools.etcd.sweeper import Sweeper
from jobd.pools.etcd.transaction import Store as EtcdStore
from jobd.pools.remote.forwarding import acting, forward, forward_conversation
from jobd.pools.remote.links import Links, Machine, open_links
from jobd.pools.settings import settings_of
from jobd.service.job_worker import JobWorkerService
from jobd.service.pool import ASK, Elsewhere, PoolService

log = structlog.get_logger(__name__)

IDENTITY: Final = "pool-identity"
"""The file of the state directory that says which machine this is, whatever it is called."""
FIRST: Final = 5.0
"""Seconds that a start waits for etcd; after that, the machine's own jobs go on without."""


@asynccontextmanager
async def open_pooled(
    config: Config, broker: Broker, store: Store, workers: Sequence[Worker], policy: Policy, local: JobWorkerService
) -> AsyncIterator[PoolService]:
    """Be in the pool for the length of the block: a broker of it, and a worker, if this machine is one.

    Raises:
        ConfigError: a setting cannot be used, what etcd has at the prefix is no pool of this version, or another
            machine has this one's name.
    """
    settings = settings_of(config)
    name, keys, seal = settings.name, settings.keys, settings.seal
    if settings.etcd.tls is None:
        log.warning("etcd is spoken to without TLS: whoever is on this machine can read the pool, and write to it")
    async with (
        open_client(settings.etcd) as client,
        open_links(settings.context) as links,
        background_nursery() as nursery,
    ):
        mirror = Mirror(client, keys)
        front = Front(client, mirror, seal, policy=policy, max_pending=config.max_pending)
        looked, begun = trio.Event(), trio.Event()

        async def be_a_worker() -> None:
            uid = await trio.to_thread.run_sync(_identity, config.state)
            member, session = _records(config, uid, settings.labels, seal.names, workers)
            register = _registration(keys, name, member, session)
            async with open_session(settings.etcd, register, ttl=sessions.TTL, keepalive=sessions.KEEPALIVE) as held:

                async def entered() -> None:
                    await held.wait_held()
                    begun.set()

                nursery.start_soon(entered)
                agent = Agent(
                    client,
                    mirror,
                    broker,
                    store,
                    seal,
                    name=name,
                    uid=uid,
                    epoch=lambda: held.epoch,
                    policy=policy,
                    workers=workers,
                )
                await agent.run()

        async def be_in_it() -> None:
            await _find_pool(client, keys, looked)
            nursery.start_soon(mirror.run)
            nursery.start_soon(front.placer.run)
            nursery.start_soon(Sweeper(client, mirror, config.keep_days * 86400, config.pool_keep).run)
            if config.worker:
                await be_a_worker()

        nursery.start_soon(be_in_it)
        with trio.move_on_after(FIRST):
            await looked.wait()
            await mirror.whole()
            if config.worker:
                await begun.wait()
        here = name if config.worker else ""  # a broker alone may well be called as another machine's worker is
        yield PoolService(here, local, front, Roster(client, mirror), _elsewhere(links))


async def _find_pool(client: Client, keys: Keys, looked: trio.Event) -> None:
    """See that there is a pool of this version, and begin one where there is nothing; wait for etcd if need be."""
    retry, told = Retry(float("inf")), ""
    while True:
        try:
            # In this order: the first of its machines may have begun the pool in between.
            first, schema = await client.page(keys.everything, size=1), await client.get(keys.schema)
            txn = membership.found_pool(keys, schema, first)
            if txn is None:
                break
            await client.txn(txn)
        except StoreUnavailableError as exc:
            if str(exc) != told:
                told = str(exc)
                log.warning("the pool cannot be reached", error=told)
            looked.set()
            await retry.pause()
        except EtcdError as exc:
            if not looked.is_set():
                raise ConfigError(f"--pool: {exc}") from exc
            log.error("the pool cannot be used", error=str(exc))  # this server has begun, and has other things to do
            await retry.pause()
    log.info("in a pool", prefix=keys.prefix)
    looked.set()
    with contextlib.suppress(EtcdError):  # a hint: the next start gives it
        version = (await client.status()).version
        if version in LOSES:
            log.warning("this release of etcd loses data when a member is killed; use 3.5.6 or later", version=version)


def _registration(keys: Keys, name: str, member: Member, session: Session) -> Register:
    async def register(store: EtcdStore, lease: int) -> int:
        while True:
            was, up = await store.get(keys.member(name)), await store.get(keys.session(name))
            try:
                txn = membership.enter(keys, name, member, session, lease, was=was, up=up)
            except PoolDataError as exc:  # an operator has to see to that; until then this machine does without
                raise StoreUnavailableError(str(exc)) from exc
            if txn is None:
                assert up is not None
                return up.created
            await store.txn(txn)

    return register


def _records(
    config: Config, uid: str, labels: Mapping[str, str], seals: tuple[str, ...], workers: Sequence[Worker]
) -> tuple[Member, Session]:
    first = workers[0]
    session = Session(
        uid=uid,
        instance=uuid.uuid4().hex,
        address=config.advertise,
        slots=sum(worker.slots for worker in workers),
        labels=labels,
        version=VERSION,
        containment=first.containment.name,
        limits=tuple(sorted(first.containment.limits)),
        isolation=tuple(first.means.available),
        seals=seals,
    )
    return Member(uid=uid, address=config.advertise, version=VERSION), session


def _elsewhere(links: Links) -> Elsewhere:
    async def hand_on(call: ServerCall, name: str, address: str, request: betterproto.Message) -> None:
        await forward(call, links, Machine(name, address), request)

    async def converse(call: ServerCall, name: str, address: str, first: AttachRequest) -> None:
        await forward_conversation(call, links, Machine(name, address), first)

    async def ask(call: ServerCall, name: str, address: str, request: betterproto.Message) -> betterproto.Message:
        method = next(each for each in METHODS if each.request is type(request))
        async with acting(call, links, Machine(name, address)) as channel:
            return await channel.unary(method, request, timeout=ASK)

    return Elsewhere(hand_on, converse, ask)


def _identity(state: Path) -> str:
    """Which machine this is: made up once, and kept.

    Raises:
        ConfigError: it cannot be.
    """
    path = state / IDENTITY
    try:
        with contextlib.suppress(FileNotFoundError):
            return uuid.UUID(path.read_text("ascii").strip()).hex
        made, fresh = uuid.uuid4().hex, path.with_suffix(".new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(f"{made}\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        directory = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)  # under another identity the pool would not have this machine back
        finally:
            os.close(directory)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be used: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigError(f"{path} does not say which machine this is; put back what it was, or remove it") from exc
    return made
