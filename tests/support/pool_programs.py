"""Pools of real programs over a real etcd: launchers, servers and jobs that can be killed and stopped one by one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support.daemon import JobdProgram, children_of, jobd_program, until_dead
from tests.support.etcd import Cluster
from tests.support.network import Network
from tests.support.pki import TestPki
from tests.support.pool import Machines
from tests.support.pooled_server import VARIABLE

FRONT: Final = (
    "-c",
    "import sys; from jobd.launcher import front; sys.exit(front.main(sys.argv[1:], 'tests.support.pooled_server'))",
)
"""A jobd whose server is :mod:`tests.support.pooled_server`."""


@dataclass
class Programs:
    """Machines with names, on loopback or each a host of its own.

    Attributes:
        of: the pool that they are in.
        seconds: how long a session lasts without a sign of life.
        network: each is a host of this one; without it, all are on loopback.
        running: the machines whose jobd runs.
    """

    of: Machines
    seconds: int
    network: Network | None = None
    running: dict[str, JobdProgram] = field(default_factory=dict)
    _stacks: dict[str, ExitStack] = field(default_factory=dict)

    def start(self, name: str, **settings: Any) -> JobdProgram:
        """Start a machine's jobd, for the first time or again: then it has its old name, address and state."""
        os.environ[VARIABLE] = str(self.seconds)
        with ExitStack() as stack:
            flags = flags_of(self.of.settings(name, **settings))
            state = self.of.directory / name / "state"
            # On a host of its own it is the same process, but for where that is.
            python, *program = [*(self.network.command(name) if self.network else ()), sys.executable, *FRONT]
            self.running[name] = stack.enter_context(
                jobd_program(self.of.pki, state, *flags, python=python, program=program)
            )
            self._stacks[name] = stack.pop_all()
        return self.running[name]

    def crash(self, name: str, *, outlived: bool = False) -> None:
        """SIGKILL to launcher, server and jobs, as when the machine dies; the jobs live on if they are to."""
        machine = self.running.pop(name)
        jobs = [] if outlived else children_of(machine.launcher)
        machine.crash()
        for job in jobs:
            with suppress(ProcessLookupError):  # the server is one of them, and leads no group
                os.killpg(job, signal.SIGKILL)
        until_dead(*jobs)
        self._stacks.pop(name).close()

    def end(self, name: str) -> None:
        """End it in order, and its jobs with it."""
        del self.running[name]
        self._stacks.pop(name).close()

    def servers(self, *names: str) -> str:
        """The addresses of these machines, or of all, as clients write them."""
        hosts = self.of.addresses
        return ",".join(f"{hosts.get(name, 'localhost')}:{self.of.port(name)}" for name in names or self.running)

    def close(self) -> None:
        """End all of them."""
        with ExitStack() as stack:
            for each in self._stacks.values():
                stack.push(each)


def flags_of(settings: Mapping[str, Any]) -> list[str]:
    """Settings, as a command line."""
    flags = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", str(value)]
    return flags


@contextmanager
def programs(
    etcd: Cluster, pki: TestPki, directory: Path, *, seconds: int, network: Network | None = None
) -> Iterator[Programs]:
    """A pool without machines, under a prefix that nobody has had."""
    addresses = network.addresses if network else {}
    made = Programs(Machines(etcd=etcd, pki=pki, directory=directory, addresses=addresses), seconds, network)
    try:
        yield made
    finally:
        made.close()
