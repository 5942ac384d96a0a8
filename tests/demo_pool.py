"""A pool on one machine: ``sh .ci/nox -s demo -- pool``.

Three members of etcd and five jobd on loopback, real programs all, worked with through jobcli: jobs go where there is
room, any broker answers, etcd's leader stops, a machine dies and comes back, another gets the name of a lost one; at
last all of etcd is lost, and restored.
Every step shows the command that a person would type; what is not as it should be ends it.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio

from jobd.pools.etcd.client import open_client
from jobd.pools.etcd.errors import EtcdError
from tests.demo import Demo
from tests.demo_pool_restore import lose_and_restore
from tests.support.etcd import Cluster, Member, cluster
from tests.support.jobs import processes_with
from tests.support.patience import patient
from tests.support.pki import TestPki
from tests.support.pool_programs import Programs, programs

MACHINES: Final = {"m1": "zone=a", "m2": "zone=a", "m3": "zone=b", "m4": "zone=b"}
BROKER: Final = "m5"
SESSION: Final = 4
"""Seconds that a machine's session lasts without a sign of life; a jobd that is not of a test has 15."""


class PoolDemo(Demo):
    """As a person would work with a pool."""

    def __init__(self, directory: Path, pool: Programs, etcd: Cluster) -> None:
        super().__init__(directory)
        self.pool = pool
        self.etcd = etcd

    def until(self, *command: str, shows: str) -> None:
        """Run a command until its answer shows that it has come so far."""
        limit = time.monotonic() + patient(30)
        while shows not in self.quiet(*command):
            if time.monotonic() > limit:
                sys.exit(f"demo: '{shlex.join(command)}' never showed {shows!r}")
            time.sleep(0.1)
        self.run(*command)

    def quiet(self, *command: str) -> str:
        module = [sys.executable, "-m", *command]
        return subprocess.run(module, stdout=subprocess.PIPE, text=True, env=self.environment, check=False).stdout

    def etcdctl(self, *arguments: str, at: Sequence[Member] = ()) -> str:
        """etcd's own tool, with the certificate of a machine."""
        return self.other("etcdctl", *arguments, command=self.etcd.ctl(*arguments, at=at))

    def other(self, *shown: str, command: Sequence[str] = ()) -> str:
        """As :meth:`run`, for a program that is not ours: what is shown, or another form of it."""
        print(f"$ {shlex.join(shown)}", flush=True)
        told = subprocess.run(command or shown, stdout=subprocess.PIPE, text=True, check=True).stdout
        print(told, end="", flush=True)
        return told

    def crash(self, name: str) -> None:
        print(f"# (SIGKILL to all of {name}'s jobd)", flush=True)
        self.pool.crash(name)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="jobd-demo-") as name:
        directory = Path(name)
        pki = TestPki.make(directory / "pki")
        for made in ("etcd", "machines"):
            (directory / made).mkdir()
        with (
            cluster(directory / "etcd", 3) as etcd,
            programs(etcd, pki, directory / "machines", seconds=SESSION) as pool,
        ):
            demo = PoolDemo(directory, pool, etcd)
            demo.say("An etcd of three members, four machines with two slots each, and a broker without a worker")
            for machine, labels in MACHINES.items():
                pool.start(machine, slots="2", labels=labels)
            pool.start(BROKER, worker=False)
            demo.connect_as("alice", pool.servers())
            work(demo, directory)
    print("\ndemo: everything went as it should", flush=True)


def work(demo: PoolDemo, directory: Path) -> None:
    demo.until("jobcli", "workers", shows="m4")
    demo.say("A job runs where there is room, or where its labels say; any broker tells of it")
    demo.run("jobcli", "run", "--on", "zone=b", "--", "sh", "-c", "echo out; exit 7", expect=7)
    with_broker = partial(demo.run, "jobcli", "--server", demo.pool.servers(BROKER))
    job = demo.run("jobcli", "start", "--", "sh", "-c", "for i in 1 2 3; do echo step $i; sleep 0.1; done").strip()
    with_broker("stream", job)
    demo.say("etcd's leader stops: a pause, and no error")
    leader = trio.run(leader_of, demo.etcd)
    leader.stop()
    demo.run("jobcli", "run", "--", "echo", "without a leader for a moment")
    leader.go_on()
    demo.say("A machine is drained: it gets no new jobs")
    demo.run("jobcli", "drain", "m3")
    demo.run("jobcli", "drain", "m4")
    waits = demo.run("jobcli", "start", "--on", "zone=b", "--", "true").strip()
    demo.until("jobcli", "query", waits, shows="2 workers that could run it are drained")
    demo.run("jobcli", "undrain", "m3")
    demo.run("jobcli", "wait", waits)
    demo.say("A machine dies: what it ran is unreachable, and is started nowhere else; it comes back")
    long = demo.run("jobcli", "start", "--on", "zone=b", "--name", "long", "--", "sleep", "600").strip()
    demo.until("jobcli", "query", long, shows="running")
    demo.crash("m3")
    demo.until("jobcli", "query", long, shows="cannot be reached")
    demo.run("jobcli", "workers")
    for pid in processes_with(long):
        subprocess.run(["kill", "-KILL", str(pid)], check=False)
    demo.pool.start("m3", slots="2", labels="zone=b")
    demo.run("jobcli", "wait", long, expect=125)
    demo.run("jobcli", "query", long)
    demo.say("m3 is gone for good, and another machine is to have its name")
    demo.pool.end("m3")
    (directory / "machines" / "m3" / "state").rename(directory / "what m3 had")
    refused(demo, lambda: demo.pool.start("m3", slots="2", labels="zone=b"))
    while demo.etcdctl("get", f"/{demo.pool.of.prefix}/up/m3"):
        time.sleep(0.5)
    demo.etcdctl("del", f"/{demo.pool.of.prefix}/m/m3")
    demo.etcdctl("del", f"/{demo.pool.of.prefix}/drain/m3")
    demo.pool.start("m3", slots="2", labels="zone=b")
    demo.until("jobcli", "workers", shows="m3      up")
    demo.run("jobcli", "run", "--on", "zone=b", "--", "echo", "on the new m3")
    lose_and_restore(demo, directory)


def refused(demo: PoolDemo, start: Callable[[], object]) -> None:
    """A machine does not start, and says what to do."""
    try:
        start()
    except AssertionError as exc:
        print(*[line for line in str(exc).splitlines() if "has the name" in line], sep="\n", flush=True)
        if "etcdctl del" in str(exc):
            return
    sys.exit("demo: a second machine with one name was not told what to do")


async def leader_of(etcd: Cluster) -> Member:
    """Who leads now."""
    for member in etcd.members:
        async with open_client(etcd.of([member.endpoint])) as client:
            try:
                status = await client.status()
            except EtcdError as exc:
                sys.exit(f"demo: {exc}")
            if status.leader == status.member:
                return member
    sys.exit("demo: nobody leads")


if __name__ == "__main__":
    main()
