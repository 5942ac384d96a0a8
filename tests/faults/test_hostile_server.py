"""What a server that has given up its privileges, and was taken over, can have of the launcher: nothing beyond what was
allowed before. A real launcher, and a program as its server that asks for each thing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from jobd.launcher import protocol
from tests.faults import hostile_server
from tests.support.accounts import needs_root
from tests.support.daemon import ROOT, is_alive
from tests.support.patience import patient

pytestmark = needs_root
SECONDS = patient(30)
UNTIL_LAUNCHED = {"do": "until", "op": "launched"}


@dataclass
class Tried:
    """What came of it.

    Attributes:
        heard: what the launcher said to the server.
        log: what it said to the operator.
    """

    heard: list[dict[str, Any]]
    log: str

    @property
    def failed(self) -> list[tuple[str, str]]:
        return [(each["id"], each["stage"]) for each in self.heard if each["op"] == "failed"]

    @property
    def launched(self) -> list[str]:
        return [each["id"] for each in self.heard if each["op"] == "launched"]


@dataclass
class Place:
    """Where it is tried: a directory that all can enter, and root alone can write.

    Attributes:
        victim: a file of root's that all can read.
        room: the directory of the jobs' control groups. It stands for one: the launcher looks at names alone.
    """

    directory: Path
    victim: Path = field(init=False)
    room: Path = field(init=False)

    def __post_init__(self) -> None:
        self.directory.chmod(0o755)
        self.victim, self.room = self.directory / "victim", self.directory / "room"
        self.victim.write_text("untouched")
        self.room.mkdir()

    def attempt(self, *steps: dict[str, Any]) -> Tried:
        """Have a server do these; the victim is left as it was, and no descriptor more is open in the launcher."""
        out, log = self.directory / "out", self.directory / "log"
        out.touch()
        out.chmod(0o666)
        before = self.victim.stat()
        server = [sys.executable, hostile_server.__file__, str(self.room), str(out), *map(json.dumps, steps)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        launcher = [sys.executable, "-m", "jobd.launcher"]
        ours, theirs = protocol.pair()
        ours.settimeout(SECONDS)
        with ours, log.open("w") as errors:
            with theirs:
                fd = str(theirs.fileno())
                process = subprocess.Popen([*launcher, fd], pass_fds=[theirs.fileno()], env=environment, stderr=errors)
            memfd = protocol.as_memfd({"command": server, "launcher": launcher, "env": environment, "cwd": "/"})
            protocol.send(ours, {"op": "serve"}, [memfd, errors.fileno(), errors.fileno()])
            os.close(memfd)
            try:
                until(lambda: out.read_text().endswith("\n") or process.poll() is not None, log)
                heard = [json.loads(line) for line in out.read_text().splitlines()]
                descriptors = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
                protocol.send(ours, {"op": "signal", "signal": signal.SIGTERM})
                assert self._ended(ours) == 0, log.read_text()
            finally:
                process.kill()  # it may have a job left that was not released
                process.wait()
        after = self.victim.stat()
        assert (after.st_uid, after.st_mode, self.victim.read_text()) == (before.st_uid, before.st_mode, "untouched")
        tried = Tried(heard, log.read_text())
        # Standard streams, selector, signals (2), the front, the server; and a job's pipes.
        assert descriptors <= 8 + 3 * len(tried.launched)
        return tried

    @staticmethod
    def _ended(front: socket.socket) -> int:
        while (heard := protocol.receive(front)) is not None:
            if heard[0]["op"] == "ended":
                return int(heard[0]["code"])
        raise AssertionError("the launcher has ended")


def until(condition: Callable[[], bool], log: Path) -> None:
    """Wait for something that has no event."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.01)


@pytest.fixture
def place() -> Iterator[Place]:
    directory = Path(tempfile.mkdtemp(prefix="jobd-test-"))
    try:
        yield Place(directory)
    finally:
        shutil.rmtree(directory)


def test_what_is_allowed_is_done(place: Place) -> None:
    """Else the refusals below would show nothing."""
    tried = place.attempt({"do": "launch"}, UNTIL_LAUNCHED, {"do": "say", "op": "signal", "id": "job", "signal": 9})
    assert tried.launched == ["job"], tried
    assert "refused" not in tried.log


@pytest.mark.parametrize(
    "changes",
    [
        {"identity": None},
        {"identity": [0, 0, [0]]},
        {"identity": [1, 1, [1]]},
        {"identity": [65534, 0, [65534]]},
        {"identity": [65534, 65534, [65534, 0]]},
        {"identity": [True, 65534, [65534]]},
        {"identity": [2**32 - 1, 65534, [65534]]},
        {"identity": "root"},
        {"no_new_privileges": False},
        {"no_new_privileges": 1},
        {"sandbox": ["/bin/sh", "-c", "true"]},
        {"nice": -5},
        {"umask": -1},
        {"io_priority": 1 << 13},
        {"limits": [[7, 2**40]]},
        {"limits": [[0, 5]]},
        {"limits": [[10, -1]]},
        {"limits": [[[], 1]]},
        {"stdin": "terminal", "size": [70000, 1]},
        {"stdin": "/etc/passwd"},
    ],
    ids=str,
)
def test_a_job_that_may_not_be_is_not_started(place: Place, changes: dict[str, Any]) -> None:
    """As another user, with another group, with privileges or beyond the limits: it fails, and the log says why."""
    tried = place.attempt({"do": "launch", **changes})
    assert tried.launched == []
    if changes != {"limits": [[[], 1]]}:  # which is no message at all
        assert tried.failed == [("job", "refused")]
    assert "job job is not started: " in tried.log or "the launcher failed, and goes on" in tried.log


def test_nothing_is_written_outside_of_the_jobs_control_group(place: Place) -> None:
    """The launcher's child writes into what it is to enter, as root: only cgroup.procs of the job's own group."""
    other = place.room / "other"
    other.mkdir()
    (other / "cgroup.procs").touch()
    paths = [place.victim, f"{place.room}/job/../../victim", f"{place.room}/job/../other/cgroup.procs", 5]
    paths += [f"{place.room}/other/cgroup.procs", f"{place.room}/job/memory.max", f"{place.room}/job/sub/cgroup.procs"]
    tried = place.attempt(*({"do": "launch", "enter": [str(path)]} for path in paths))
    assert tried.failed == [("job", "refused")] * len(paths)
    assert (other / "cgroup.procs").read_text() == ""


@pytest.mark.parametrize("id", ["../victim", "a/b", "", "x" * 65, 7, None, ["job"]], ids=str)
def test_an_id_is_a_name(place: Place, id: Any) -> None:
    """It becomes part of a path."""
    tried = place.attempt({"do": "launch", "id": id, "enter": [f"{place.room}/{id}/cgroup.procs"]})
    assert (tried.launched, tried.failed) == ([], [])
    assert "that is no job's id" in tried.log


def test_a_jobs_stdin_is_no_file_of_somebody_elses(place: Place) -> None:
    """It is given to the job's user: a file that all can read would be changed by all, then."""
    shared = Path("/dev/shm") / f"jobd-test-{os.getpid()}"  # in memory, as a memfd is
    shared.write_text("untouched")
    try:
        files = (place.victim, shared)
        tried = place.attempt(*({"do": "launch", "stdin": "data", "given": str(path)} for path in files))
        assert shared.stat().st_uid == 0
    finally:
        shared.unlink()
    assert tried.launched == []
    assert "what comes with it is no memfd" in tried.log
    assert "what comes with it is no memfd of the server's" in tried.log


def test_no_other_process_is_signalled(place: Place) -> None:
    """Not the first one, not the front, not a bystander, not the launcher: who does not descend from it is no job's."""
    with subprocess.Popen(["sleep", "300"]) as bystander:  # of coreutils
        targets = [1, os.getpid(), bystander.pid]
        pids = [[pid, int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])] for pid in targets]
        kill = {"do": "say", "op": "signal_pids", "number": 1, "signal": signal.SIGKILL}
        tried = place.attempt({**kill, "pids": pids}, {**kill, "pids": [[-1, 0]]}, {**kill, "pids": [[0, 0]]})
        assert bystander.poll() is None
        bystander.kill()
    assert f"({targets})" in tried.log
    assert tried.log.count("those are no processes") == 2


@pytest.mark.parametrize(
    "message",
    [
        {"op": "elsewhere", "path": "/", "pid": "1", "with": ["/dev/null"]},
        {"op": "keep", "name": "control", "with": ["/dev/null"]},
        {"op": "keep", "name": "anything", "with": ["/dev/null"]},
        {"op": "allow", "server": 1, "users": {"0": [0]}, "rooms": [], "sandbox": "", "gains": False},
        {"op": "serve", "with": ["/dev/null", "/dev/null", "/dev/null"]},
        {"op": "upgrade"},
        {"op": ["launch"]},
        {"no": "op"},
        {"op": "signal", "id": "job", "signal": 999},
        {"op": "signal", "id": "job", "signal": 9, "main": "x"},
        {"op": "release", "id": ["job"]},
        {"op": "ready", "with": ["/dev/null"]},
        {"op": "saying", "with": ["/dev/null"]},
    ],
    ids=str,
)
def test_nothing_else_can_be_asked_for(place: Place, message: dict[str, Any]) -> None:
    """Neither what a server does before, nor what visitors do, nor nonsense; and what was allowed stays as it is."""
    tried = place.attempt({"do": "say", **message}, {"do": "launch", "identity": [0, 0, [0]]})
    assert tried.log.count("the server asks for what it may not") == 1
    assert tried.failed == [("job", "refused")]


PACKETS = [{"text": "[", "times": 60000}, {"text": "5"}, {"text": "\xff"}, {"text": "{}"}]


@pytest.mark.parametrize("packet", PACKETS, ids=str)
def test_what_is_no_message_costs_the_launcher_nothing(place: Place, packet: dict[str, Any]) -> None:
    """Not a descriptor: a hundred are more than it may have here."""
    tried = place.attempt({"do": "packet", **packet}, {"do": "launch"}, UNTIL_LAUNCHED)
    assert tried.launched == ["job"]


def test_the_launcher_does_not_wait_for_what_is_to_be_started(place: Place) -> None:
    """A pipe that nobody writes to."""
    tried = place.attempt({"do": "launch from a pipe"})
    assert "is no memfd" in tried.log


def test_nobody_goes_on_when_the_server_has_ended(place: Place) -> None:
    """Who was left behind would hold the listening socket, and the key."""
    tried = place.attempt({"do": "fork"})
    left = [each["pid"] for each in tried.heard if each["op"] == "forked"]
    assert len(left) == 2
    assert not any(map(is_alive, left))
