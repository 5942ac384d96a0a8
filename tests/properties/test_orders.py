"""What a server that was taken over may say to the launcher, which has the privileges that the server gave up:
anything. It is done if it is within what was allowed, else refused; nothing else comes of it, and nothing stays open.

The launcher's side is the real one, jobs and all; the corpus is in the examples.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobd.launcher import protocol
from jobd.launcher.allowed import Allowed
from jobd.launcher.channel import Channel
from jobd.launcher.jobs import Jobs
from jobd.launcher.orders import Orders
from jobd.launcher.served import Server
from tests.properties.test_borders import VALUES, bent

CHECKED = settings(deadline=None, max_examples=60)
ID = "0123abcd-0000-4000-8000-000000000000"
US = os.geteuid()
GROUPS = sorted({os.getegid(), *os.getgroups()})
ROOM = "/sys/fs/cgroup/jobd/rooms"
ALLOWED = Allowed(server=US, users={US: GROUPS}, rooms=[ROOM], sandbox="/nowhere/bwrap")
NOFILE = resource.getrlimit(resource.RLIMIT_NOFILE)
LIMITS = (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, 10)
PROGRAM: dict[str, Any] = {
    "argv": ["true"],
    "env": {"PATH": os.defpath},
    "cwd": "/",
    "enter": [],
    "limits": [[resource.RLIMIT_NOFILE, 64]],
    "nice": 0,
    "umask": 0o22,
    "identity": None,
    "io_priority": 0,
    "drop_capabilities": False,
    "no_new_privileges": True,
    "sandbox": [],
    "outside": {},
    "stdin": "none",
    "size": [0, 0],
}
OPERATIONS = (
    "launch",
    "signal",
    "signal_pids",
    "close_stdin",
    "release",
    "saying",
    "ready",
    "alive",
    "keep",
    "allow",
    "elsewhere",
)
NUMBERS = st.integers(-3, 70) | st.sampled_from([2**31, 2**62, 2**63, -(2**63), True, 1e400])
FIELDS = VALUES | NUMBERS | st.lists(st.lists(NUMBERS, max_size=3), max_size=3)
MESSAGES = st.fixed_dictionaries(
    {"op": st.sampled_from(OPERATIONS) | FIELDS},
    optional={
        "id": st.sampled_from([ID, "", "../x", "x" * 65, ID + "\n"]) | FIELDS,
        "signal": NUMBERS | FIELDS,
        "main": st.booleans() | FIELDS,
        "number": NUMBERS | FIELDS,
        "pids": FIELDS,
        "name": st.sampled_from(["lock", "listener", "control"]) | FIELDS,
    },
)
COMMANDS = st.sampled_from([["true"], [], ["tr\0ue"], [5], "true", None, {"a": 1}, ["/nowhere"], ["true", "\ud800"]])
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        **{name: FIELDS for name in PROGRAM if name not in ("argv", "identity", "sandbox")},
        "argv": COMMANDS,
        "identity": st.lists(NUMBERS | st.lists(NUMBERS, max_size=3), max_size=4) | st.sampled_from([[US, US, [US]]]),
        "sandbox": st.sampled_from([["/nowhere/bwrap"], ["/nowhere/bwrap", 5], ["/bin/sh"], "sh", None]),
    },
)


class Host:
    """What is not about jobs; that a server without privileges may have nothing of, but to say that it is there."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def keep(self, name: str, fd: int) -> None:
        self.asked.append("keep")

    def ready(self) -> None:
        pass

    def alive(self) -> None:
        pass

    def elsewhere(self, message: protocol.Message, fds: list[int]) -> None:
        self.asked.append("elsewhere")

    def allowed(self, rooms: list[str]) -> None:
        self.asked.append("allowed")


class Launcher:
    """The part of a launcher that a server speaks to."""

    def __init__(self, selector: selectors.BaseSelector, ours: socket.socket) -> None:
        self.selector = selector
        self.jobs = Jobs(selector, self._tell, NOFILE)
        self.host = Host()
        self.said: list[str] = []
        self.orders = Orders(self.jobs, self.host, self.said.append)
        self.server = Server(os.getpid(), Channel(ours, selector, self._hear), time.monotonic(), allowed=ALLOWED)

    def _tell(self, message: protocol.Message, fds: list[int]) -> None:
        protocol.close_all(fds)

    def _hear(self, message: protocol.Message, fds: list[int]) -> None:
        self.orders.take(self.server, message, fds)

    def hear(self) -> None:
        """What the server said; all of it, whatever comes of each."""
        self.server.channel.drain()

    def end(self) -> None:
        """See that every job ends that was launched."""
        while len(self.jobs):
            self.jobs.signal_all(signal.SIGKILL)
            if self.jobs.running:
                self.jobs.reaped(*os.waitpid(-1, 0))
            for key, _ in self.selector.select(0):
                key.data()
            self.jobs.release(ID)
        self.server.channel.close()


@contextmanager
def launcher() -> Iterator[tuple[Launcher, socket.socket]]:
    """A launcher, and the server's end; afterwards as many descriptors are open as before."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    ours, theirs = protocol.pair()
    with theirs, selectors.DefaultSelector() as selector:
        made = Launcher(selector, ours)
        try:
            yield made, theirs
        finally:
            made.end()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@CHECKED
@given(message=MESSAGES, files=st.lists(st.sampled_from(["memfd", "pipe", "file"]), max_size=3))
@example(message={"op": "keep", "name": "listener"}, files=["pipe"])
@example(message={"op": ["launch"]}, files=[])
@example(message={"op": "signal_pids", "number": 1, "signal": 9, "pids": [[1, 0], [True, 0]]}, files=[])
@example(message={"op": "signal_pids", "number": 1, "signal": 9, "pids": [], "id": "../1"}, files=[])
@example(message={"op": "signal", "id": ID, "signal": True}, files=[])
@example(message={"op": "launch", "id": ID}, files=["memfd", "memfd"])
def test_an_order_is_done_or_refused(message: dict[str, Any], files: list[str]) -> None:
    """Whatever it says, and whatever descriptors come with it; and what the server gave up stays given up."""
    with launcher() as (made, server), tempfile.TemporaryFile() as file:
        reading, writing = os.pipe()
        kinds = {"memfd": os.memfd_create("test"), "pipe": reading, "file": file.fileno()}
        socket.send_fds(server, [json.dumps(message).encode()], [kinds[kind] for kind in files])
        protocol.close_all([kinds["memfd"], reading, writing])
        made.hear()
        assert made.host.asked == []


@CHECKED
@given(packet=st.binary(max_size=100) | bent(protocol.pack({"op": "signal", "id": ID, "signal": 15, "main": False})))
@example(packet=b"[" * 5000)
@example(packet=b"{}")
def test_a_packet_is_an_order_or_costs_itself(packet: bytes) -> None:
    """The one after it is heard."""
    with launcher() as (made, server):
        server.send(packet or b" ")
        protocol.send(server, {"op": "keep", "name": "x"})
        for _ in range(2):  # as the launcher's loop does, which goes on when a step fails
            try:
                made.hear()
            except (ValueError, AssertionError, RecursionError):
                continue
        assert any("'keep'" in each for each in made.said)


@settings(CHECKED, max_examples=60)
@given(changes=CHANGES, left_out=st.sets(st.sampled_from(sorted(PROGRAM)), max_size=2))
@example(changes={}, left_out=set())
@example(changes={"stdin": "terminal", "size": None}, left_out=set())
@example(changes={"argv": ["tr\0ue"]}, left_out=set())
@example(changes={}, left_out={"argv"})
@example(changes={}, left_out={"identity"})
@example(changes={}, left_out={"limits"})
@example(changes={"io_priority": []}, left_out=set())
@example(changes={"limits": [[[], 1]]}, left_out=set())
@example(changes={"identity": [2**32 - 1, 0, []]}, left_out=set())
@example(changes={"enter": [f"{ROOM}/{ID}/../../cgroup.procs"]}, left_out=set())
@example(changes={"limits": [[7, 2**62]]}, left_out=set())
def test_a_program_is_started_as_allowed_or_refused(changes: dict[str, Any], left_out: set[str]) -> None:
    """A child there is only for one that is within bounds, whatever else is wrong with it."""
    spec = {name: value for name, value in {**PROGRAM, **changes}.items() if name not in left_out}
    with launcher() as (made, server):
        memfd = protocol.as_memfd(spec)
        protocol.send(server, {"op": "launch", "id": ID}, [memfd])
        os.close(memfd)
        made.hear()
        if len(made.jobs):
            assert within_bounds(spec)


def within_bounds(spec: dict[str, Any]) -> bool:
    """What :class:`Allowed` is to hold a program to, said again in another way."""
    uid, gid, groups = spec.get("identity") or (US, GROUPS[0], GROUPS)
    limits = all(number in LIMITS and type(value) is int and value >= 0 for number, value in spec["limits"])
    return (
        uid == US
        and {gid, *groups} <= set(GROUPS)
        and spec["enter"] in ([], [f"{ROOM}/{ID}/cgroup.procs"])
        and limits
        and 0 <= spec["nice"] <= 19
        and 0 <= spec["umask"] <= 0o777
        and spec["no_new_privileges"] is True
        and (not spec.get("sandbox") or spec["sandbox"][0] == ALLOWED.sandbox)
    )


@CHECKED
@given(data=st.binary(max_size=100) | bent(protocol.pack(PROGRAM)))
@example(data=b"[" * 100_000)
@example(data=b"")
def test_a_memfd_is_a_program_or_refused(data: bytes) -> None:
    """Bytes of any kind."""
    with launcher() as (made, server):
        memfd = os.memfd_create("test")
        os.write(memfd, data)
        protocol.send(server, {"op": "launch", "id": ID}, [memfd])
        os.close(memfd)
        made.hear()
