"""What systemd says to the process that it starts, and what it is told by that: sd_notify(3), sd_listen_fds(3)."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobd.launcher import protocol
from jobd.launcher.channel import Channel
from jobd.launcher.served import Server
from jobd.launcher.systemd import Systemd
from tests.support import systemd
from tests.support.daemon import ROOT
from tests.support.patience import patient

SAID = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
LOOK = """import json, os
from jobd.launcher.systemd import Systemd
found = Systemd(os.environ)
inheritable = found.listener is not None and os.get_inheritable(found.listener)
print(json.dumps([found.listener, found.problem, inheritable, sorted(os.environ)]))
"""
FRONT = """import os, socket, sys
from jobd.launcher.front import Front
from jobd.launcher.systemd import Systemd
class Ours(Front):
    def _start_launcher(self):
        return socket.socket(fileno=int(sys.argv[1]))
sys.exit(Ours(["server"], ["launcher"], Systemd(os.environ)).run())
"""


# ---- what it says


def test_nothing_is_left_of_it_in_the_environment() -> None:
    """Not what is for another process either: whoever passed it on did not mean us."""
    environment = {**dict.fromkeys(SAID, "1"), "PATH": "/bin"}
    found = Systemd(environment)
    assert environment == {"PATH": "/bin"}
    assert (found.listener, found.problem, found.pulse) == (None, "", None)


@pytest.mark.parametrize(
    ("said", "pulse"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-3"}, None),
        ({"WATCHDOG_USEC": "٣"}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
        ({"WATCHDOG_USEC": "3000000", "NOTIFY_SOCKET": "vsock:2:1"}, None),
    ],
)
def test_a_watchdog_is_ours_or_nobody_s(said: dict[str, str], pulse: float | None) -> None:
    """Half the time, if the pid is ours and there is somebody to tell."""
    assert Systemd({"NOTIFY_SOCKET": "/run/systemd/notify", **said}).pulse == pulse


def look(fd: int, count: str = "1", **said: str) -> list[Any]:
    """What a process finds that is given this."""
    done = subprocess.run(
        systemd.given(fd, [sys.executable, "-c", LOOK], count),
        check=True,
        capture_output=True,
        text=True,
        pass_fds=[fd],
        env={**os.environ, "PYTHONPATH": str(ROOT), **said},
    )
    found: list[Any] = json.loads(done.stdout)
    assert not set(SAID) & set(found.pop())
    return found


def test_a_socket_that_is_given_is_taken_and_is_for_nobody_else() -> None:
    """Descriptor 3, which no program that is started inherits."""
    with socket.socket() as listener:
        assert look(listener.fileno(), LISTEN_FDNAMES="jobd.socket") == [3, "", False]


@pytest.mark.parametrize(
    ("count", "problem"),
    [("2", "LISTEN_FDS) cannot be used: Bad file descriptor"), ("9" * 12, "cannot be used: Bad file descriptor")],
)
def test_sockets_that_are_not_there_are_missed(count: str, problem: str) -> None:
    """Whatever number is said."""
    with socket.socket() as listener:
        assert problem in look(listener.fileno(), count)[1]


def test_a_file_is_no_socket(tmp_path: Path) -> None:
    """It is refused by its number."""
    (tmp_path / "file").touch()
    with (tmp_path / "file").open() as file:
        assert look(file.fileno())[1] == "what systemd gave as descriptor 3 (LISTEN_FDS) is no socket"


# ---- what it is told


@contextmanager
def front(hears: systemd.Systemd, **said: str) -> Iterator[tuple[socket.socket, subprocess.Popen[str]]]:
    """A front whose launcher is the test: the socket to it, and its process."""
    ours, theirs = protocol.pair()
    ours.settimeout(patient(120))
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", FRONT, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": hears.address, **said},
        )
        theirs.close()
        try:
            yield ours, process
        finally:
            ours.close()
            process.wait(timeout=patient(120))
            if process.stderr:
                process.stderr.close()


def heard(sock: socket.socket) -> str:
    """What a launcher hears next."""
    received = protocol.receive(sock)
    assert received
    protocol.close_all(received[1])
    return str(received[0]["op"])


@pytest.mark.parametrize("abstract", [True, False])
def test_states_are_told_as_systemd_wants_them(tmp_path: Path, abstract: bool) -> None:
    """At a path and at a name; one that is not ready reloads nothing; and what is for people stays one line."""
    with systemd.hearing(None if abstract else tmp_path / "notify") as hears, front(hears) as (launcher, process):
        for state, said in [
            ("reloading", "too early"),
            ("ready", "serving"),
            ("reloading", "being upgraded\nMAINPID=1"),
            ("down", "x" * 5000),
            ("stopping", "\udcff"),
        ]:
            protocol.send(launcher, {"op": "state", "state": state, "said": said})
        assert hears.next() == {"STATUS": "too early"}
        assert hears.next() == {"READY": "1", "STATUS": "serving"}
        reloading = hears.next()
        assert int(reloading.pop("MONOTONIC_USEC")) > 0
        assert reloading == {"RELOADING": "1", "STATUS": "being upgraded?MAINPID=1"}
        assert hears.next() == {"STATUS": "x" * 200}
        assert hears.next() == {"STOPPING": "1", "STATUS": "?"}
        protocol.send(launcher, {"op": "ended", "code": 7})
        assert process.wait(patient(120)) == 7


def test_the_watchdog_is_given_an_answer_and_nothing_else() -> None:
    """The front asks again and again; as long as nobody answers, systemd hears nothing of a watchdog."""
    with systemd.hearing() as hears, front(hears, WATCHDOG_USEC="40000") as (launcher, _):
        assert heard(launcher) == "serve"
        for _ in range(3):
            assert heard(launcher) == "alive"
        protocol.send(launcher, {"op": "state", "state": "ready", "said": ""})
        assert heard(launcher) == "alive"
        protocol.send(launcher, {"op": "alive"})
        assert "READY" in hears.next()
        assert hears.next() == {"WATCHDOG": "1"}


def test_a_question_that_nobody_hears_any_more_costs_no_exit_code() -> None:
    """The launcher may end while it is asked whether the server lives: what it said before counts."""
    with systemd.hearing() as hears, front(hears, WATCHDOG_USEC="40000") as (launcher, process):
        assert heard(launcher) == "serve"
        assert launcher.recv(1, socket.MSG_PEEK)  # it is asked, and never hears it
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        protocol.send(launcher, {"op": "ended", "code": 7})
        launcher.close()
        process.send_signal(signal.SIGCONT)
        assert process.wait(patient(120)) == 7


def test_without_a_watchdog_nobody_is_asked() -> None:
    """What comes next is the signal, however long it takes."""
    with systemd.hearing() as hears, front(hears) as (launcher, process):
        assert heard(launcher) == "serve"
        protocol.send(launcher, {"op": "state", "state": "ready", "said": ""})
        hears.until("READY")
        process.terminate()
        assert heard(launcher) == "signal"


def test_a_systemd_that_is_not_there_is_no_problem(tmp_path: Path) -> None:
    """It is said, and all goes on."""
    nobody = systemd.Systemd(str(tmp_path / "nobody"), socket.socket())
    with nobody._sock, front(nobody) as (launcher, process):
        assert heard(launcher) == "serve"  # with it came its stderr, which is to end
        protocol.send(launcher, {"op": "state", "state": "ready", "said": ""})
        protocol.send(launcher, {"op": "ended", "code": 0})
        _, said = process.communicate(timeout=patient(120))
        assert "systemd cannot be told READY=1: No such file" in said
        assert process.returncode == 0


# ---- who is asked


def test_a_server_that_was_not_asked_does_not_live_by_saying_so() -> None:
    """One answer to one question, once it is ready: a hostile server keeps neither front nor systemd busy."""
    ours, theirs = protocol.pair()
    with theirs, selectors.DefaultSelector() as selector:
        theirs.setblocking(False)
        server = Server(1, Channel(ours, selector, lambda *_: None), 0.0)
        server.ask_whether_it_lives()
        assert not server.answers(), "it was not ready, and so not asked"
        server.ready = True
        assert not server.answers()
        server.ask_whether_it_lives()
        assert heard(theirs) == "alive"
        assert (server.answers(), server.answers()) == (True, False)
        server.channel.close()
