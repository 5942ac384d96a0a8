"""Hosts of their own on this machine, each in a network namespace, that can be cut off: iproute2, and root.

The program that uses it is in a namespace of its own too (:func:`alone`), so nothing of it is seen outside, and all of
it is gone with the last process in it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.support.patience import patient

HUB: Final = "10.77.0.254"
"""The address of the program that uses it."""
INSIDE: Final = "JOBD_TEST_NETWORK"


def what_is_missing() -> str:
    """Why there can be none here; "" if there can."""
    if os.geteuid():
        return "root"
    missing = [name for name in ("ip", "tc", "nsenter", "unshare") if not shutil.which(name)]
    if missing:
        return f"the program {missing[0]}"
    command = ["unshare", "--net", "ip", "link", "add", "name", "b", "type", "bridge"]
    return "" if subprocess.run(command, capture_output=True, check=False).returncode == 0 else "a kernel with bridges"


def alone() -> None:
    """Execute this program anew where nobody else's network is; returns there."""
    if INSIDE not in os.environ:
        command = ["unshare", "--net", "--", sys.executable, *sys.orig_argv[1:]]
        os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})  # ourselves
    _ip("link", "set", "lo", "up")


def _ip(*arguments: str, inside: int = 0) -> None:
    enter = ["nsenter", f"--net=/proc/{inside}/ns/net", "--"] if inside else []
    subprocess.run([*enter, "ip", *arguments], check=True)


class Network:
    """Made by :func:`network`.

    Attributes:
        addresses: of the hosts, by name.
    """

    def __init__(self, addresses: Mapping[str, str], holders: Mapping[str, int]) -> None:
        self.addresses = addresses
        self._holders = holders

    def command(self, host: str) -> list[str]:
        """What a command is put behind to be executed on a host; its process is the one that was started."""
        return ["nsenter", f"--net=/proc/{self._holders[host]}/ns/net", "--"]

    def cut(self, host: str) -> None:
        """Nothing goes to a host any more, nor comes from there; nobody is told."""
        _ip("link", "set", f"to-{host}", "down")

    def heal(self, host: str) -> None:
        """What goes and comes arrives again."""
        _ip("link", "set", f"to-{host}", "up")

    def slow(self, host: str) -> None:
        """What goes to a host is slow from now on, and some of it is lost."""
        _slow(f"to-{host}")

    def quick(self, host: str) -> None:
        """As it was, after :meth:`slow`."""
        subprocess.run(["tc", "qdisc", "del", "dev", f"to-{host}", "root"], check=True)


def _slow(device: str) -> None:
    """Two hundred kilobits a second, and half a second of them that wait; tc(8)."""
    how = ("tbf", "rate", "200kbit", "burst", "8kb", "latency", "500ms")
    subprocess.run(["tc", "qdisc", "add", "dev", device, "root", *how], check=True)


@contextmanager
def network(hosts: Sequence[str]) -> Iterator[Network]:
    """Some hosts, and a cable from each to all others and to this program."""
    _ip("link", "add", "name", "hub", "type", "bridge", "forward_delay", "0")
    _ip("address", "add", f"{HUB}/24", "dev", "hub")
    _ip("link", "set", "hub", "up")
    addresses, holders = {host: f"10.77.0.{number}" for number, host in enumerate(hosts, 1)}, {}
    with ExitStack() as stack:
        for host, address in addresses.items():
            holders[host] = pid = stack.enter_context(_namespace())
            _ip("link", "add", f"to-{host}", "type", "veth", "peer", "name", "cable", "netns", str(pid))
            _ip("link", "set", f"to-{host}", "master", "hub", "up")
            _ip("address", "add", f"{address}/24", "dev", "cable", inside=pid)
            for device in ("lo", "cable"):
                _ip("link", "set", device, "up", inside=pid)
        yield Network(addresses, holders)


@contextmanager
def _namespace() -> Iterator[int]:
    """A network namespace, as the pid of a process that is in it."""
    # It ends with this program, however that ends: then nobody can write to it any more.
    command = ["unshare", "--net", "--", "cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as holder:
        try:
            own, until = Path("/proc/self/ns/net").readlink(), time.monotonic() + patient(20)
            while Path(f"/proc/{holder.pid}/ns/net").readlink() == own:
                assert time.monotonic() < until, "no network namespace was made"
                time.sleep(0.01)
            yield holder.pid
        finally:
            holder.kill()
