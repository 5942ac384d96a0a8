"""The last part of ``sh .ci/nox -s demo -- pool``: all three members of etcd are lost, and made anew from a backup.

The commands are those of docs/pool.md (Backup, Restore), in that order. What was taken since the backup runs once.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.etcd import HOST, Member, tool
from tests.support.jobs import processes_with
from tests.support.patience import patient

if TYPE_CHECKING:
    from tests.demo_pool import PoolDemo

BETWEEN: Final = f"http://{HOST}:23790"
"""Where the etcd is that the backup is frozen in."""
TOLD: Final = "the pool is frozen, and knows what this machine has"
BUMP: Final = ("--bump-revision", "1000000000", "--mark-compacted")


def lose_and_restore(demo: PoolDemo, directory: Path) -> None:
    """With the machines m1 and m2 in zone a, m3 and m4 in zone b, and a broker."""
    backup, frozen = directory / "pool.db", directory / "frozen.db"
    demo.say("A backup of etcd is made. Since then a job is taken that waited, and another one comes")
    demo.run("jobcli", "drain", "m1")
    demo.run("jobcli", "drain", "m2")
    marks, gate = directory / "marks", directory / "gate"
    script = f"echo ran >> {marks}; until test -e {gate}; do sleep 0.1; done; exit 5"
    taken = demo.run("jobcli", "start", "--on", "zone=a", "--name", "taken", "--", "sh", "-c", script).strip()
    demo.until("jobcli", "query", taken, shows="2 workers that could run it are drained")
    demo.etcdctl("snapshot", "save", str(backup), at=demo.etcd.members[:1])
    demo.run("jobcli", "undrain", "m1")
    new = demo.run("jobcli", "start", "--on", "zone=a", "--name", "new", "--", "sleep", "600").strip()
    for job in (taken, new):
        demo.until("jobcli", "query", job, shows="running")
    demo.say("All of etcd is lost. The backup is frozen, and each member made anew from that")
    for member in demo.etcd.members:
        member.kill(signal.SIGTERM)
        shutil.rmtree(member.option("--data-dir"))
    freeze(demo, backup, frozen)
    for member in demo.etcd.members:
        make_anew(demo, member, frozen)
    see(lambda: "is healthy" in demo.etcdctl("endpoint", "health", "--cluster", at=demo.etcd.members[:1]))
    see(lambda: "{}" in demo.etcdctl("get", key(demo)))
    demo.say("Each machine says what it has; then the pool is thawed")
    told = {name: said(demo, name) for name in demo.pool.running}
    for jobd in demo.pool.running.values():
        demo.run("jobd", "upgrade", "--state", str(jobd.state))
    waits = demo.run("jobcli", "start", "--on", "zone=b", "--", "true").strip()
    demo.until("jobcli", "query", waits, shows="nothing is placed while the pool is frozen")
    for name in ("m1", "m2", "m3", "m4"):
        see(lambda name=name: said(demo, name) > told[name])  # type: ignore[misc] # its default is its type
    demo.run("jobcli", "workers")
    demo.etcdctl("del", key(demo))
    demo.run("jobcli", "wait", waits)
    demo.say("What was taken since the backup runs once; what came since goes on, and the pool knows nothing of it")
    demo.until("jobcli", "query", taken, shows="running")
    gate.touch()
    demo.run("jobcli", "wait", taken, expect=5)
    see(lambda: marks.read_text() == "ran\n")
    demo.run("jobcli", "query", new, expect=125)
    demo.until("jobcli", "workers", shows="new (")
    for pid in processes_with(new):
        os.kill(pid, signal.SIGKILL)


def freeze(demo: PoolDemo, backup: Path, frozen: Path) -> None:
    """Make of a backup one in which nothing is placed, in an etcd that nobody else reaches."""
    between = backup.with_name("between")
    demo.other(tool("etcdutl"), "snapshot", "restore", str(backup), "--data-dir", str(between))
    where = ("--listen-client-urls", BETWEEN, "--advertise-client-urls", BETWEEN)
    peers = ("--listen-peer-urls", f"http://{HOST}:23800")
    with (between.with_suffix(".log").open("wb") as log, subprocess.Popen(
        [demo.etcd.members[0].binary, "--data-dir", between, *where, *peers], stderr=log
    ) as etcd):  # fmt: skip
        demo.other(tool("etcdctl"), "--endpoints", BETWEEN, "put", key(demo), "{}")
        demo.other(tool("etcdctl"), "--endpoints", BETWEEN, "snapshot", "save", str(frozen))
        etcd.terminate()


def make_anew(demo: PoolDemo, member: Member, backup: Path) -> None:
    """A member of etcd, of a backup."""
    options = ("--data-dir", "--name", "--initial-cluster", "--initial-advertise-peer-urls")
    restore = [tool("etcdutl"), "snapshot", "restore", str(backup), "--initial-cluster-token", "restored"]
    restore += [each for name in options for each in (name, member.option(name))]
    known = subprocess.run([*restore[:3], "--help"], capture_output=True, text=True, check=False).stdout
    demo.other(*restore, *(BUMP if BUMP[0] in known else ()))
    member.start()


def key(demo: PoolDemo) -> str:
    """What freezes the pool."""
    return f"/{demo.pool.of.prefix}/frozen"


def said(demo: PoolDemo, name: str) -> int:
    """How often a machine has said that it has told the pool what it has."""
    return demo.pool.running[name].log.read_text().count(TOLD)


def see(what: Callable[[], bool]) -> None:
    """Wait until it is so."""
    limit = time.monotonic() + patient(30)
    while not what():
        if time.monotonic() > limit:
            sys.exit("demo: etcd, or a machine, never said what it should")
        time.sleep(0.2)
