"""Pools of daemons over a real etcd: in this process (fast)."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trio

from api.client import JobClient
from api.identity import Role
from pki.authority import Authority
from tests.support.daemon import running_daemon
from tests.support.etcd import Cluster
from tests.support.patience import patient
from tests.support.pki import TestPki

_PREFIXES = itertools.count()
_PORTS = itertools.count(30_000 + 300 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")))


def free_port() -> int:
    """A port of loopback that nobody listens on, nor is given before it is listened on: below those that the kernel
    gives away (32768 and above), and this process's own."""
    while True:
        port = next(_PORTS)
        with socket.socket() as sock, suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            return port


@dataclass(kw_only=True)
class Machines:
    """What machines of one pool are started with.

    Attributes:
        addresses: of those that are not on loopback.
    """

    etcd: Cluster
    pki: TestPki
    directory: Path
    prefix: str = field(default_factory=lambda: f"pool{next(_PREFIXES)}")  # that nobody has had
    addresses: Mapping[str, str] = field(default_factory=dict)
    _ports: dict[str, int] = field(default_factory=dict)

    def port(self, name: str) -> int:
        """Where a machine listens: on the same one, however often it is started."""
        if name not in self._ports:
            self._ports[name] = free_port()
        return self._ports[name]

    def settings(self, name: str, **more: Any) -> dict[str, Any]:
        """Of a machine's jobd."""
        home, port, address = self.directory / name, self.port(name), self.addresses.get(name, "127.0.0.1")
        if not home.exists():
            home.mkdir(parents=True)
            authority = Authority.load(self.pki.directory)
            now = datetime.now(UTC)
            authority.issue_server(home, [name, "localhost", address], now=now)
            authority.issue_client(home, f"broker-{name}", [Role.BROKER], now=now)
        return {
            "listen": f"{address}:{port}",
            "cert": home / "server.crt",
            "key": home / "server.key",
            "pool": "etcd://" + ",".join(str(member.endpoint) for member in self.etcd.members),
            "pool_prefix": self.prefix,
            "pool_cert": self.etcd.directory / "machine.crt",
            "pool_key": self.etcd.directory / "machine.key",
            "pool_ca": self.etcd.directory / "ca.crt",
            "advertise": f"{self.addresses.get(name, 'localhost')}:{port}",
            "broker_cert": home / f"broker-{name}.crt",
            "broker_key": home / f"broker-{name}.key",
            "worker_name": name,
            **more,
        }


@dataclass(kw_only=True)
class Pool(Machines):
    """Machines with names, all on loopback.

    Attributes:
        machines: the address of each that runs.
    """

    nursery: trio.Nursery
    machines: dict[str, str] = field(default_factory=dict)
    _running: dict[str, tuple[trio.CancelScope, trio.Event]] = field(default_factory=dict)

    async def start(self, name: str, **settings: Any) -> str:
        """Start a machine; its address."""
        self.machines[name] = await self.nursery.start(self._run, name, settings)
        return self.machines[name]

    async def _run(self, name: str, settings: dict[str, Any], task_status: trio.TaskStatus[str]) -> None:
        over = trio.Event()
        with trio.CancelScope() as scope:
            self._running[name] = scope, over
            settings, state = self.settings(name, **settings), self.directory / name / "state"
            async with running_daemon(self.pki, state, **settings) as address:
                task_status.started(address)
                await trio.sleep_forever()
        over.set()

    async def stop(self, name: str) -> None:
        """End a machine's daemon, and its jobs with it."""
        scope, over = self._running.pop(name)
        scope.cancel()
        await over.wait()

    @asynccontextmanager
    async def client(self, *names: str, who: str = "alice") -> AsyncIterator[JobClient]:
        """A client of these machines, or of all."""
        servers = ",".join(self.machines[name] for name in names or self.machines)
        async with JobClient.connect(servers, **self.pki.credentials(who), retry_for=patient(20)) as client:
            yield client


@asynccontextmanager
async def open_pool(etcd: Cluster, pki: TestPki, directory: Path) -> AsyncIterator[Pool]:
    """A pool without machines, under a prefix that nobody has had."""
    async with trio.open_nursery() as nursery:
        yield Pool(nursery=nursery, etcd=etcd, pki=pki, directory=directory)
        nursery.cancel_scope.cancel()
