"""The launcher: the parent of the server and of every job, and the one that is meant to live.

It forks jobs when the server asks, keeps a duplicate of their pipes, reaps them, and remembers each exit until the
server has it durably. When the server ends unasked, it starts it again and tells the new one everything. It knows
nothing of networks, certificates, users or output, and reads no byte that a job writes.

On SIGHUP it executes itself anew, in place: same pid, so still the parent of all, with whatever code is installed
then. What it knows goes through a memfd, what it holds stays open.

One thread, one loop; standard library only, so that there is little that can fail, and little to hold in memory.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from jobd.launcher import children, protocol, upgrade
from jobd.launcher.channel import Channel
from jobd.launcher.procfs import signal_group

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 5.0
HEALTHY: Final = 3.0
"""Seconds that a server must have lived for its end to count as the first one again."""
SOCKET_ENVIRONMENT: Final = "JOBD_LAUNCHER_FD"
RESTART_ENVIRONMENT: Final = "JOBD_RESTARTED"
LEAVING: Final = 30.0
"""Seconds that a server has to leave before an upgrade; then it is killed, which loses nothing."""


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
    """A running server."""

    pid: int
    channel: Channel
    started: float
    ready: bool = False


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
        self._upgrading = False
        self._kill_at: float | None = None
        self._exit_code: int | None = None
        self._selector = selectors.DefaultSelector()
        with open("/proc/sys/kernel/random/boot_id") as file:  # noqa: PTH123 # pathlib is large, and this is all it would do
            self._identity = f"{file.read().strip()}/{os.getpid()}.{time.time_ns()}"
        self._waking = -1
        soft, hard = self._nofile = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        state = upgrade.inherited()
        if state:
            self._take_over(state)

    # ---- the loop

    def run(self) -> int:
        """Serve until the server has ended as it should, or was told to; returns the exit code."""
        waking, woken = socket.socketpair()
        for sock in (waking, woken):
            sock.setblocking(False)
        for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, lambda *_: None)
        self._waking = waking.fileno()
        signal.set_wakeup_fd(self._waking)
        self._selector.register(woken, selectors.EVENT_READ, lambda: self._signals(woken))
        self._start_server()
        self._reap()  # what ended while this process executed itself anew
        while self._exit_code is None:
            due = min((at for at in (self._next_start, self._kill_at) if at is not None), default=None)
            wait = None if due is None else max(0.0, due - time.monotonic())
            for key, _ in self._selector.select(wait):
                if self._selector.get_map().get(key.fd) is not key:
                    continue  # one before it in this round let go of it; its number may be another's by now
                try:
                    key.data()
                except Exception as exc:  # noqa: BLE001 # jobs depend on this process: a bug may cost a message, not them
                    self._say(f"the launcher failed, and goes on: {exc!r}")
            if self._next_start is not None and time.monotonic() >= self._next_start:
                self._start_server_or_wait()
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._kill_at = None
                self._signal_server(signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        return self._exit_code

    def _signals(self, woken: socket.socket) -> None:
        for signum in woken.recv(4096):
            if signum == signal.SIGCHLD:
                self._reap()
            elif signum == signal.SIGHUP:
                self._upgrade()
            else:
                self._stop()

    def _stop(self) -> None:
        """Pass the wish to end on to the server, which ends the jobs; one that is only starting hears it when it is
        ready. Without a server and without jobs, there is nothing to wait for."""
        self._stopping = True
        if self._server and (self._server.ready or not self._jobs):
            self._signal_server(signal.SIGTERM)
        elif not self._server and not self._jobs:
            self._exit_code = 0

    def _signal_server(self, signum: int) -> None:
        if self._server:
            os.kill(self._server.pid, signum)  # our child, and not reaped: the pid is its own

    # ---- the server

    def _start_server_or_wait(self) -> None:
        try:
            self._start_server()
        except OSError as exc:  # no descriptors, no memory, no processes: that passes
            self._next_start = time.monotonic() + LONGEST_PAUSE
            self._say(f"the server cannot be started ({exc.strerror}); trying again in {LONGEST_PAUSE:g} s")

    def _start_server(self) -> None:
        self._next_start = None
        ours, theirs = protocol.pair()
        theirs.set_inheritable(True)
        environment = {**os.environ, SOCKET_ENVIRONMENT: str(theirs.fileno())}
        if self._served:
            environment[RESTART_ENVIRONMENT] = "1"
        with theirs:
            try:
                # A process group of its own: Ctrl-C at a terminal comes to us alone, and we pass it on once.
                pid = os.posix_spawn(self._command[0], self._command, environment, setpgroup=0)
            except OSError:
                ours.close()
                raise
        self._server = _Server(pid, Channel(ours, self._selector, self._hear), time.monotonic())
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
        server.channel.close()
        code = os.waitstatus_to_exitcode(status)
        if self._upgrading:
            self._execute_anew()
        unfinished = self._served and code != 0 and any(job.status is None for job in self._jobs.values())
        if (self._stopping and not unfinished) or code == 0 or not self._served:
            self._exit_code = code if code >= 0 else 128 - code
            return
        if time.monotonic() - server.started > HEALTHY:
            self._pause = 0.0
        how = f"ended with code {code}" if code >= 0 else f"was ended by signal {-code}"
        pause = self._pause
        self._next_start = time.monotonic() + pause
        self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
        self._say(f"the server {how}; starting it again in {pause:g} s ({len(self._jobs)} jobs go on)")

    # ---- an upgrade

    def _upgrade(self) -> None:
        """Ask the server to leave; when it has, execute what is installed now."""
        if self._upgrading or self._stopping:
            return
        problem = upgrade.problem()
        if problem:
            self._say(f"no upgrade: what is installed does not start, and everything stays as it is: {problem}")
            return
        self._upgrading = True
        self._kill_at = time.monotonic() + LEAVING
        if self._server:
            self._tell({"op": "leave"})
        else:
            self._execute_anew()

    def _execute_anew(self) -> None:
        """Become a new launcher with the same pid. Returns only when that could not be done."""
        self._upgrading, self._kill_at = False, None
        signal.set_wakeup_fd(-1)
        fds = [fd for job in self._jobs.values() for fd in job.child.fds(job.executed)]
        failure = upgrade.execute_anew(self._state(), [*self._kept.values(), *fds])
        self._say(f"no upgrade: {failure.strerror}; going on as before")
        signal.set_wakeup_fd(self._waking)

    def _state(self) -> protocol.Message:
        jobs = [
            {
                "id": job.id,
                "child": vars(job.child),
                "started_at": job.started_at,
                "executed": job.executed,
                "status": job.status,
            }
            for job in self._jobs.values()
        ]
        return {"identity": self._identity, "kept": self._kept, "jobs": jobs, "nofile": self._nofile}

    def _take_over(self, state: protocol.Message) -> None:
        """Go on with what this process was before it executed itself anew."""
        self._identity, self._kept, self._nofile = state["identity"], state["kept"], tuple(state["nofile"])
        self._served = True
        for facts in state["jobs"]:
            child = children.Child(**facts.pop("child"))
            job = self._jobs[facts["id"]] = _Job(child=child, **facts)
            for fd in child.fds(job.executed):
                os.set_inheritable(fd, False)
            if job.status is None:
                self._by_pid[child.pid] = job
            if not job.executed:
                self._watch_report(job)
        for fd in self._kept.values():
            os.set_inheritable(fd, False)
        self._say(f"executed anew, with {len(self._jobs)} jobs")

    # ---- speaking to the server

    def _tell(self, message: protocol.Message, fds: list[int] | None = None) -> None:
        if self._server:
            self._server.channel.tell(message, fds)
        else:
            for fd in fds or []:
                os.close(fd)

    def _tell_job(self, job: _Job, op: str) -> None:
        fds = [os.dup(job.child.out), os.dup(job.child.err)]
        if job.status is None:
            fds.append(os.pidfd_open(job.child.pid))  # it is our child and not reaped: the pid is its own
        self._tell(job.facts(op), fds)

    def _hear(self, message: protocol.Message, fds: list[int]) -> None:
        getattr(self, f"_on_{message.pop('op')}")(*fds, **message)

    def _on_ready(self) -> None:
        self._served = True
        if self._server:
            self._server.ready = True
        if self._stopping:
            self._signal_server(signal.SIGTERM)

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
            self._tell({"op": "failed", "id": id, "stage": "fork", "errno": exc.errno or 0})
            return
        job = self._jobs[id] = self._by_pid[child.pid] = _Job(id, child, time.time_ns())
        self._watch_report(job)

    def _watch_report(self, job: _Job) -> None:
        self._selector.register(job.child.report, selectors.EVENT_READ, lambda: self._reported(job))

    def _reported(self, job: _Job) -> None:
        if job.executed or self._jobs.get(job.id) is not job:
            return  # its death, in the same round, was faster
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
    return _polled(fd, select.POLLIN)


def _writable(fd: int) -> bool:
    return _polled(fd, select.POLLOUT)


def _polled(fd: int, event: int) -> bool:
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(0))


def main(command: list[str]) -> int:
    """Run a launcher with this server; returns the exit code."""
    return Launcher(command, say).run()


def say(text: str) -> None:
    """Tell the operator something, if anybody listens: jobs do not depend on it."""
    with contextlib.suppress(OSError, ValueError):
        if _writable(sys.stderr.fileno()):
            print(f"jobd: {text}", file=sys.stderr, flush=True)
