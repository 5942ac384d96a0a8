"""Daemons for tests: in this process (fast), or as the real program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from jobd.config import Config
from jobd.daemon import Daemon, run
from tests.support.patience import patient
from tests.support.pki import TestPki

ROOT = Path(__file__).parents[2]
SOON = ("-c", "import sys, jobd.cli; jobd.cli.front.PATIENCE = 3; sys.exit(jobd.cli.main())")
"""A jobd that does not wait long for a launcher that does not answer."""
SERVERS = {b"jobd.server", b"tests.support.pooled_server"}
"""The modules that are a server's program."""
FAST = {"grace": 15.0, "drain": 1.0, "shutdown": 0.2}


def config_for(pki: TestPki, state: Path, **settings: Any) -> Config:
    """Settings for a daemon on a free loopback port, with short waits."""
    return Config(state=state, **{**pki.server(), "listen": "127.0.0.1:0", **FAST, **settings})


@asynccontextmanager
async def running_daemon(pki: TestPki, state: Path, **settings: Any) -> AsyncIterator[str]:
    """A daemon in this process; gives ``localhost:PORT``. At the end of the block it is shut down, jobs and all."""
    async with open_daemon(pki, state, **settings) as daemon:
        yield daemon.address.replace("127.0.0.1", "localhost")


@asynccontextmanager
async def open_daemon(pki: TestPki, state: Path, **settings: Any) -> AsyncIterator[Daemon]:
    """As :func:`running_daemon`, for those who look inside."""
    async with trio.open_nursery() as nursery:
        daemon: Daemon = await nursery.start(partial(run, config_for(pki, state, **settings)))
        try:
            yield daemon
        finally:
            nursery.cancel_scope.cancel()


@dataclass(frozen=True)
class JobdProgram:
    """A ``jobd`` of its own: the front (``process``), the launcher below it, and the server below that.

    Attributes:
        server: the address, as clients write it.
        log: what came on stderr.
        state: the state directory.
    """

    process: subprocess.Popen[str]
    server: str
    log: Path
    state: Path

    def logged(self, *events: str) -> list[dict[str, Any]]:
        """What the server's log has, of some events only if any are named; whole lines, while it is written to."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        return [entry for entry in map(json.loads, lines) if not events or entry["event"] in events]

    @property
    def launcher(self) -> int:
        """The pid of the launcher."""
        return holder_of(self.state)

    def server_pid(self) -> int:
        """The pid of the server that runs now. Asserts that there is one within a while, and blocks until
        then: a task asks for it in a thread."""
        until = time.monotonic() + patient(20)
        while time.monotonic() < until:
            found = [pid for pid in children_of(self.launcher) if SERVERS & set(command_of(pid).split(b"\0"))]
            if found:
                return found[0]
            time.sleep(0.01)
        raise AssertionError(f"jobd has no server: {self.log.read_text()}")

    def kill_server(self) -> None:
        """SIGKILL to the server; the launcher starts another one."""
        os.kill(self.server_pid(), signal.SIGKILL)

    def crash(self) -> None:
        """SIGKILL to launcher and server, as when the machine's memory ran out."""
        pids = [self.launcher, self.server_pid()]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.process.wait(timeout=patient(20))
        until_dead(*pids)


def end_by_force(process: subprocess.Popen[str], state: Path) -> None:
    """SIGKILL to a front, its launcher, and that one's children, jobs included."""
    launcher = holder_of(state)
    process.kill()
    os.kill(launcher, signal.SIGSTOP)  # it would start another server
    while state_of(launcher) not in "TZX":
        time.sleep(0.001)
    for pid in [*children_of(launcher), launcher]:
        os.kill(pid, signal.SIGKILL)


def holder_of(state: Path) -> int:
    """The pid that the holder of a state directory has left there: its launcher's."""
    return int((state / "lock").read_text())


def until_dead(*pids: int) -> None:
    """Wait until processes have ended that may be nobody's children."""
    until = time.monotonic() + patient(20)
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < until, f"still alive: {pids}"
        time.sleep(0.001)


def children_of(pid: int) -> list[int]:
    """The live children of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if int(parent) == pid and state != "Z":
                found.append(int(entry.name))
    return found


def is_alive(pid: int) -> bool:
    """The process has not ended. (One that has, has let go of its files, whether or not it was reaped.)"""
    try:
        return state_of(pid) not in "ZX"
    except OSError:
        return False


def state_of(pid: int) -> str:
    """The state of a process, as ps shows it.

    Raises:
        OSError: there is none.
    """
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def descriptors_of(pid: int) -> int:
    """How many a jobd has; 0 to all but root, whom alone it lets look."""
    if os.geteuid() != 0:
        return 0
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def command_of(pid: int) -> bytes:
    """The command line of a process; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@contextmanager
def jobd_program(
    pki: TestPki,
    state: Path,
    *flags: str,
    stderr: int | None = None,
    path: Sequence[Path] = (ROOT,),
    python: str = sys.executable,
    program: Sequence[str] = ("-m", "jobd"),
    identity: Mapping[str, Any] | None = None,
) -> Iterator[JobdProgram]:
    """The real program, ended with SIGTERM at the end of the block (if it still runs).

    Args:
        flags: given after those that it needs, so they win.
        stderr: where it writes instead of to a file.
        path: where its code is looked for.
        python: the interpreter.
        program: what it is given to execute.
        identity: arguments of Popen: the user that it is to run as.
    """
    arguments = ["--listen", "127.0.0.1:0", "--state", str(state), "--grace", "15", "--drain", "1", "--shutdown", "0.2"]
    arguments += ["--stop-jobs"]  # a test that leaves some has to end them itself
    arguments += [text for name, path in pki.server().items() for text in (f"--{name}", str(path))]
    log = state.parent / f"jobd-{time.monotonic_ns()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [python, *program, *arguments, *flags],
            stdout=subprocess.PIPE,
            stderr=errors if stderr is None else stderr,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONSAFEPATH": "1"},
            **(identity or {}),
        ) as process,
    ):
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            assert ready.startswith("jobd is listening on "), ready + log.read_text()
            yield JobdProgram(process, ready.rsplit(maxsplit=1)[-1].replace("127.0.0.1", "localhost"), log, state)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=patient(20))
            except subprocess.TimeoutExpired:  # a test that fails is not to hang besides
                end_by_force(process, state)
                raise
