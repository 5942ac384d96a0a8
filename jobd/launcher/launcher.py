"""The launcher: the parent of the server and of every job, and the one that is meant to live.

It forks jobs when the server asks, keeps a duplicate of their pipes, reaps them, and remembers each exit until the
server has it durably. When the server ends unasked, it starts it again and tells the new one everything. It knows
nothing of networks, certificates, users or output, and reads no byte that a job writes.

One thread, one loop; standard library only, so that there is little that can fail, and little to hold in memory.
"""

from __future__ import annotations

import collections
import contextlib
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from jobd.launcher import children, protocol
from jobd.launcher.procfs import signal_group

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 5.0
HEALTHY: Final = 10.0
"""Seconds that a server must have served for its end to count as the first one again."""
SOCKET_ENVIRONMENT: Final = "JOBD_LAUNCHER_FD"
RESTART_ENVIRONMENT: Final = "JOBD_RESTARTED"


@dataclass
class _Job:
    """A job's process. ``status`` is its wait status, once it is dead; ``report`` is gone once it has executed."""

    id: str
    child: children.Child
    started_at: int
    executed: bool = False
    status: int | None = None

    def facts(self, op: str) -> protocol.Message:
        pid, status = self.child.pid, self.status
        return {"op": op, "id": self.id, "pid": pid, "started_at": self.started_at, "status": status}


@dataclass
class _Server:
    """A running server, and our end of the socket to it.

    Attributes:
        heard: the socket is open at its end.
    """

    pid: int
    sock: socket.socket
    started: float
    heard: bool = True
    unsent: collections.deque[tuple[protocol.Message, list[int]]] = field(default_factory=collections.deque)


class Launcher:
    """``run`` is its life."""

    def __init__(self, command: list[str], say: Callable[[str], None]) -> None:
        """
        Args:
            command: what the server is started with.
            say: tells the operator something, in a line.
        """
        self._command = command
        self._say = say
        self._jobs: dict[str, _Job] = {}
        self._by_pid: dict[int, _Job] = {}
        self._kept: dict[str, int] = {}
        self._server: _Server | None = None
        self._served = False  # a server has been ready
        self._pause = 0.0
        self._next_start: float | None = None
        self._stopping = False
        self._exit_code: int | None = None
        self._selector = selectors.DefaultSelector()
        with open("/proc/sys/kernel/random/boot_id") as file:  # noqa: PTH123 # pathlib is large, and this is all it would do
            self._identity = f"{file.read().strip()}/{os.getpid()}.{time.time_ns()}"
        soft, hard = self._nofile = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    # ---- the loop

    def run(self) -> int:
        """Serve until the server has ended as it should, or was told to; returns the exit code."""
        waking, woken = socket.socketpair()
        for sock in (waking, woken):
            sock.setblocking(False)
        for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: None)
        signal.set_wakeup_fd(waking.fileno())
        self._selector.register(woken, selectors.EVENT_READ, lambda: self._signals(woken))
        self._start_server()
        while self._exit_code is None:
            wait = None if self._next_start is None else max(0.0, self._next_start - time.monotonic())
            for key, _ in self._selector.select(wait):
                try:
                    key.data()
                except Exception as exc:  # noqa: BLE001 # jobs depend on this process: a bug may cost a message, not them
                    self._say(f"the launcher failed, and goes on: {exc!r}")
            if self._next_start is not None and time.monotonic() >= self._next_start:
                self._start_server()
        signal.set_wakeup_fd(-1)
        return self._exit_code

    def _signals(self, woken: socket.socket) -> None:
        for signum in woken.recv(4096):
            if signum == signal.SIGCHLD:
                self._reap()
            else:
                self._stop()

    def _stop(self) -> None:
        """Pass the wish to end on to the server; without one, there is nothing that would hold us."""
        self._stopping = True
        self._next_start = None
        if self._server:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._server.pid, signal.SIGTERM)
        else:
            self._exit_code = 1 if self._jobs else 0

    # ---- the server

    def _start_server(self) -> None:
        self._next_start = None
        ours, theirs = protocol.pair()
        ours.setblocking(False)
        theirs.set_inheritable(True)
        environment = {**os.environ, SOCKET_ENVIRONMENT: str(theirs.fileno())}
        if self._served:
            environment[RESTART_ENVIRONMENT] = "1"
        with theirs:
            # A process group of its own: Ctrl-C at a terminal comes to us alone, and we pass it on once.
            pid = os.posix_spawn(self._command[0], self._command, environment, setpgroup=0)
        self._server = _Server(pid, ours, time.monotonic())
        self._selector.register(ours, selectors.EVENT_READ, self._hear)
        names = list(self._kept)
        hello = {"op": "hello", "version": protocol.VERSION, "launcher": self._identity, "kept": names}
        self._tell(hello, [os.dup(self._kept[name]) for name in names])
        for job in self._jobs.values():
            if job.executed:
                self._tell_job(job, "job")
        self._tell({"op": "known"})

    def _server_ended(self, status: int) -> None:
        server, self._server = self._server, None
        assert server
        self._hang_up(server)
        server.sock.close()
        for _, fds in server.unsent:
            for fd in fds:
                os.close(fd)
        code = os.waitstatus_to_exitcode(status)
        if self._stopping or code == 0 or not self._served:
            self._exit_code = code if code >= 0 else 128 - code
            return
        if time.monotonic() - server.started > HEALTHY:
            self._pause = 0.0
        how = f"ended with code {code}" if code >= 0 else f"was ended by signal {-code}"
        self._say(f"the server {how}; starting it again in {self._pause:g} s ({len(self._jobs)} jobs go on)")
        self._next_start = time.monotonic() + self._pause
        self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)

    # ---- speaking to the server

    def _tell(self, message: protocol.Message, fds: list[int] | None = None) -> None:
        """Send, or keep for when the server is less far behind. The descriptors are ours to close."""
        if self._server:
            self._server.unsent.append((message, fds or []))
            self._send()

    def _send(self) -> None:
        server = self._server
        if server is None or not server.heard:
            return
        with contextlib.suppress(OSError):  # BlockingIOError: later; gone: SIGCHLD tells
            while server.unsent:
                message, fds = server.unsent[0]
                protocol.send(server.sock, message, fds)
                server.unsent.popleft()
                for fd in fds:
                    os.close(fd)
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if server.unsent else 0)
        self._selector.modify(server.sock, events, self._hear)

    def _tell_job(self, job: _Job, op: str) -> None:
        fds = [os.dup(job.child.out), os.dup(job.child.err)]
        if job.status is None:
            fds.append(os.pidfd_open(job.child.pid))  # it is our child and not reaped: the pid is its own
        self._tell(job.facts(op), fds)

    def _hear(self) -> None:
        self._send()
        server = self._server
        if server is None:
            return
        try:
            while heard := protocol.receive(server.sock):
                message, fds = heard
                getattr(self, f"_on_{message.pop('op')}")(*fds, **message)
        except BlockingIOError:
            return
        except ConnectionError:
            pass
        self._hang_up(server)  # it is gone, or going: SIGCHLD says the rest

    def _hang_up(self, server: _Server) -> None:
        if server.heard:
            self._selector.unregister(server.sock)
            server.heard = False

    def _on_ready(self) -> None:
        self._served = True

    def _on_keep(self, fd: int, name: str) -> None:
        if name in self._kept:
            os.close(self._kept[name])
        self._kept[name] = fd

    def _on_launch(self, memfd: int, id: str) -> None:
        spec = protocol.from_memfd(memfd)
        if id in self._jobs:  # asked before, by a server that did not live to hear the answer
            if self._jobs[id].executed:
                self._tell_job(self._jobs[id], "launched")
            return
        try:
            child = children.spawn(spec["argv"], spec["env"], spec["cwd"], self._nofile)
        except OSError as exc:
            self._tell({"op": "failed", "id": id, "stage": "fork", "errno": exc.errno})
            return
        job = self._jobs[id] = self._by_pid[child.pid] = _Job(id, child, time.time_ns())
        self._selector.register(child.report, selectors.EVENT_READ, lambda: self._reported(job))

    def _reported(self, job: _Job) -> None:
        self._selector.unregister(job.child.report)
        failure = job.child.failure()
        if failure is None:
            job.executed = True
            self._tell_job(job, "launched")
            return
        job.child.close()
        del self._jobs[job.id]
        self._tell({"op": "failed", "id": job.id, "stage": failure[0], "errno": failure[1]})

    def _on_signal(self, id: str, signal: int) -> None:
        job = self._jobs.get(id)
        if job:
            signal_group(job.child.pid, signal, leader_reaped=job.status is not None)

    def _on_release(self, id: str) -> None:
        job = self._jobs.get(id)
        if job and job.status is not None:
            job.child.close()
            del self._jobs[id]

    # ---- exits

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if self._server and pid == self._server.pid:
                    self._server_ended(status)
                    continue
                job = self._by_pid.pop(pid, None)
                if job:
                    self._exited(job, status)

    def _exited(self, job: _Job, status: int) -> None:
        job.status = status
        if not job.executed and job.id in self._jobs and _readable(job.child.report):
            self._reported(job)  # what it said before it died comes first
        if job.executed:
            self._tell({"op": "exited", "id": job.id, "status": status})


def _readable(fd: int) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        return bool(selector.select(0))


def main(command: list[str]) -> int:
    """Run a launcher with this server; returns the exit code."""
    return Launcher(command, lambda text: print(f"jobd: {text}", file=sys.stderr, flush=True)).run()
