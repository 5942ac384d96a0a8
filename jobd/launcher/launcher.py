"""The launcher: the parent of the server and of every job, and the one that is meant to live.

It forks jobs when the server asks, keeps a duplicate of their pipes, reaps them and their orphans, and remembers each
exit until the server has it durably. When the server ends unasked, it starts it again and tells the new one everything.
It knows nothing of networks, certificates, users or output, and reads no byte that a job writes.

It was started by the front (the process that people see as ``jobd``), which passes signals on and waits for the exit
code. When an orderly end leaves jobs, the front goes and the launcher stays, without a server, until the next front
comes. It then executes itself anew, in place, with the code that is installed by then: same pid, so still the parent
of all. SIGHUP has the same effect. What it knows goes through a memfd, what it holds stays open.

One thread, one loop; standard library only, so that there is little that can fail, and little to hold in memory.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from jobd.launcher import console, protocol, served, signals, upgrade
from jobd.launcher.allowed import remove_rooms
from jobd.launcher.jobs import Jobs
from jobd.launcher.orders import Orders
from jobd.launcher.orphans import adopt_orphans
from jobd.launcher.upgrade import Trial
from jobd.launcher.visitors import Visitors

STALLED_PAUSE: Final = 0.05
LEAVING: Final = 30.0
"""Seconds that a server has to leave before an upgrade; then it is killed, which loses nothing."""


class Launcher:
    """``run`` is its life."""

    def __init__(self, front: socket.socket | None, say: Callable[[str], None]) -> None:
        """
        Args:
            front: the socket to the front that started this process; None when it was executed anew.
            say: tells the operator something, in a line.
        """
        self._say = say
        self._selector = selectors.DefaultSelector()
        with open("/proc/sys/kernel/random/boot_id") as file:  # noqa: PTH123 # pathlib is large, and this is all it would do
            self._identity = f"{file.read().strip()}/{os.getpid()}.{time.time_ns()}"
        self._nofile = resource.getrlimit(resource.RLIMIT_NOFILE)
        state = upgrade.inherited()
        if state:
            self._nofile = tuple(state["nofile"])
        soft, hard = self._nofile
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._jobs = Jobs(self._selector, self._tell, self._nofile)
        self._orders = Orders(self._jobs, self, say)
        self._visitors = Visitors(self._selector, self)
        self._kept: dict[str, int] = {}
        self._rooms: list[str] = []  # directories of control groups that a server without privileges cannot remove
        self._server: served.Server | None = None
        self._served = False  # a server of this front has been ready
        self._pauses = served.Pauses()
        self._next_start: float | None = None
        self._stops = 0  # wishes to end that were not fulfilled yet
        self._trial: Trial | None = None  # of an upgrade that is wanted
        self._upgrading = False
        self._kill_at: float | None = None
        self._exit_code: int | None = None
        self._waking = -1
        if state:
            self._take_over(state)
        elif front:
            self._visitors.welcome(front)

    # ---- the loop

    def run(self) -> int:
        """Serve until there is nothing to do and nothing to remember; returns the exit code."""
        adopt_orphans()
        woken, waking = signals.read_from_now_on(upgrade.SIGNALS)
        self._waking = waking.fileno()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, upgrade.SIGNALS)
        self._selector.register(woken, selectors.EVENT_READ, lambda: self._signals(woken))
        if self._visitors.wanted:
            self._start_server_or_wait()
        self._reap()  # what ended while this process executed itself anew
        while self._exit_code is None:
            for key, _ in self._selector.select(self._wait()):
                if self._selector.get_map().get(key.fd) is not key:
                    continue  # one before it in this round let go of it; its number may be another's by now
                self._protected(key.data)
            self._protected(self._do_what_is_due)
        signal.set_wakeup_fd(-1)
        if self._trial:
            self._trial.abandon()
        remove_rooms(self._rooms)
        return self._exit_code

    def _protected(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as exc:  # noqa: BLE001 # jobs depend on this process: a bug may cost a message, not them
            self._say(f"the launcher failed, and goes on: {exc!r}")

    def _wait(self) -> float | None:
        due = self._trial.due if self._trial else None
        times = [at for at in (self._next_start, self._kill_at, due) if at is not None]
        if self._server and self._server.channel.stalled:
            times.append(time.monotonic() + STALLED_PAUSE)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _do_what_is_due(self) -> None:
        if self._next_start is not None and time.monotonic() >= self._next_start:
            self._start_server_or_wait()
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._kill_at = None
            self._signal_server(signal.SIGKILL)
        if self._trial and self._trial.due is not None and time.monotonic() >= self._trial.due:
            self._trial.kill()
        if self._server and self._server.channel.stalled:
            self._server.channel.flush()

    def _signals(self, woken: socket.socket) -> None:
        for signum in woken.recv(4096):
            self.signalled(signum)

    def signalled(self, signum: int) -> None:
        if signum == signal.SIGCHLD:
            self._reap()
        elif signum == signal.SIGHUP:
            self.upgrade()
        else:
            self._stop()

    def _stop(self) -> None:
        """Pass the wish to end on to the server; one that is only starting hears it when it is ready. Without one, the
        jobs that are there are ended by a server that is started for it. Asked again, none of that is waited for."""
        self._stops += 1
        self._visitors.tell_state("stopping", "ending in order")
        if self._server:
            if self._server.ready or not self._jobs:
                self._signal_server(signal.SIGTERM)
            elif self._stops > 1:
                self._signal_server(signal.SIGKILL)
        elif not self._jobs or self._stops > 1:
            self._give_up()
        elif self._next_start is None:
            self._start_server_or_wait()

    def _give_up(self) -> None:
        """End without a server. Nobody is left to be told how the jobs end."""
        if not self._visitors.front and self._jobs:
            self._say(f"{self._jobs.running} jobs are killed, and how they ended is not recorded")
            self._jobs.signal_all(signal.SIGKILL)
            self._exit_code = 1
        else:
            self._leave(1 if self._jobs else 0)

    def ask_whether_it_lives(self) -> None:
        if self._server:
            self._server.ask_whether_it_lives()

    def alive(self) -> None:
        if self._server and self._server.answers():
            self._visitors.tell_front({"op": "alive"}, [])

    def _signal_server(self, signum: int) -> None:
        if self._server:
            self._server.signal(signum)

    # ---- who comes

    def serve(self, wanted: protocol.Message, *, first: bool) -> None:
        """Serve a front: with a server that is not started yet, or in place of one whose front is gone."""
        self._served, self._stops = False, 0
        if first:
            self._start_server_or_wait()
        elif not self._upgrading:
            self._replace(wanted)

    def turned_away(self, uid: int) -> None:
        self._say(f"somebody who is uid {uid} came to the launcher's socket, and was turned away")

    def left_alone(self) -> None:
        """End, if there is nothing to do any more and nothing to remember."""
        if not self._jobs and not self._server and self._next_start is None and not self._trial:
            self._exit_code = 0

    # ---- the server

    def _start_server_or_wait(self) -> None:
        try:
            self._start_server()
        except OSError as exc:  # no descriptors, no memory, no processes: that passes
            self._next_start = time.monotonic() + served.LONGEST_PAUSE
            self._say(f"the server cannot be started ({exc.strerror}); trying again in {served.LONGEST_PAUSE:g} s")

    def _start_server(self) -> None:
        self._next_start = None
        wanted = self._visitors.wanted
        assert wanted
        served.go_to(wanted["cwd"])
        restarted = self._served or not self._visitors.front
        self._server = served.start(wanted, self._selector, self._hear, restarted=restarted)
        ending = bool(self._stops) and not self._visitors.front
        about = {"version": protocol.VERSION, "launcher": self._identity, "given": wanted.get("given", False)}
        hello = {"op": "hello", **about, "kept": [*self._kept], "end": ending}
        self._tell(hello, [os.dup(fd) for fd in self._kept.values()])
        self._jobs.tell_all()
        self._tell({"op": "known"}, [])

    def _server_ended(self, status: int) -> None:
        server = self._server
        assert server
        server.channel.drain()
        self._server = None
        server.channel.close()
        if not server.leaves_nobody():
            self._say("processes of the server's user are left, and were not to be ended")
        code = os.waitstatus_to_exitcode(status)
        if self._upgrading:
            self._execute_anew()
            self._next_start = time.monotonic()
        elif self._stops > 1 and not server.ready:
            self._give_up()
        elif self._is_final(code, saying=server.saying):
            self._leave(code if code >= 0 else 128 - code)
        else:
            self._start_again(code, time.monotonic() - server.started)

    def _is_final(self, code: int, *, saying: bool) -> bool:
        """It ended as it should, or because of what it was told, or nobody depends on it or was told of it."""
        if code == 0 or (self._stops and not self._jobs):
            return True
        return not self._served and not self._stops and (code > 0 or not (self._jobs or saying))

    def _start_again(self, code: int, lived: float) -> None:
        how = f"ended with code {code}" if code >= 0 else f"was ended by signal {-code}"
        pause = self._pauses.after(lived)
        self._next_start = time.monotonic() + pause
        self._say(f"the server {how}; starting it again in {pause:g} s ({len(self._jobs)} jobs go on)")
        self._visitors.tell_state("down", f"the server {how}; it is started again")
        self._visitors.answer_asked(f"the new server {how}")

    def _leave(self, code: int) -> None:
        """The server has ended for good. With jobs left, stay for whoever comes next; let go of all else."""
        self._stops = 0
        if self._jobs and self._visitors.front:
            self._say(
                f"jobs go on: {self._jobs.running} of {len(self._jobs)} run under the launcher (pid {os.getpid()}); "
                "start jobd again with the same --state to take them up, or end them with SIGTERM to that pid"
            )
        console.quieten()
        if not self._jobs:  # whoever starts jobd again, once the front has ended, is not to meet us
            protocol.close_all([*self._kept.values()])
            self._kept.clear()
        self._visitors.dismiss_front(code)
        if not self._jobs:
            self._exit_code = code

    # ---- an upgrade

    def upgrade(self) -> None:
        """Replace both halves by what is installed now, if a server is to run at all."""
        if not self._stops:
            self._visitors.tell_state("reloading", "being upgraded")
        if self._upgrading or self._trial or self._stops:
            self._visitors.answer_asked("it is being upgraded, or ended, already")
        elif not self._server and self._next_start is None:
            self._visitors.answer_asked("no server runs: start jobd, with the same --state")
        elif self._visitors.wanted:
            self._replace(self._visitors.wanted)

    def _replace(self, wanted: protocol.Message) -> None:
        """See whether what is installed now would start with what is wanted; if it would, it is to take over."""
        served.go_to(wanted["cwd"])
        if self._trial:  # of what somebody else wanted
            self._trial.abandon()
            self._trial = None
        try:
            self._trial = Trial(wanted["launcher"], wanted["command"], wanted["env"])
        except OSError as exc:
            self._tried(partial(str, exc.strerror))

    def _tried(self, find: Callable[[], str]) -> None:
        """Ask the server to leave; when it has, execute what is installed now."""
        self._trial, problem = None, find()
        if self._stops:
            self._visitors.answer_asked("it is being ended")
            return
        if problem:
            why = f"a new server would not start, and everything stays as it is: {problem}"
            self._say(f"no upgrade: {why}")
            self._visitors.answer_asked(why)
            if not self._server:
                self._start_server_or_wait()
            elif self._server.ready:
                self._visitors.tell_state("ready", f"serving; no upgrade: {problem}")
            return
        self._upgrading = True
        self._next_start = None
        if self._server:
            self._kill_at = time.monotonic() + LEAVING
            self._tell({"op": "leave"}, [])
        else:
            self._execute_anew()
            self._next_start = time.monotonic()

    def _execute_anew(self) -> None:
        """Become a new launcher with the same pid. Returns only when that could not be done."""
        self._upgrading, self._kill_at = False, None
        wanted = self._visitors.wanted
        assert wanted
        signal.set_wakeup_fd(-1)
        held = [*self._kept.values(), *self._visitors.fds(), *self._jobs.fds()]
        failure = upgrade.execute_anew(wanted["launcher"], wanted["env"], self._state(), held)
        self._say(f"no upgrade: {failure.strerror}; going on as before")
        self._visitors.answer_asked(f"{failure.strerror}")
        signal.set_wakeup_fd(self._waking)

    def _state(self) -> protocol.Message:
        return {
            "identity": self._identity,
            "nofile": self._nofile,
            "kept": self._kept,
            "served": self._served,
            "stops": self._stops,
            "visitors": self._visitors.state(),
            "jobs": self._jobs.state(),
        }

    def _take_over(self, state: protocol.Message) -> None:
        """Go on with what this process was before it executed itself anew."""
        self._identity, self._served, self._stops = state["identity"], state["served"], state["stops"]
        self._visitors.take_over(state["visitors"])
        self._jobs.take_over(state["jobs"])
        for name, fd in state["kept"].items():
            os.set_inheritable(fd, False)
            self.keep(name, fd)
        self._say(f"executed anew, with {len(self._jobs)} jobs")

    # ---- speaking to the server

    def _tell(self, message: protocol.Message, fds: list[int]) -> None:
        if self._server:
            self._server.channel.tell(message, fds)
            if not self._server.listens:
                self._say("the server does not listen, and is killed")
                self._signal_server(signal.SIGKILL)
        else:
            protocol.close_all(fds)

    def _hear(self, message: protocol.Message, fds: list[int]) -> None:
        if self._server:
            self._orders.take(self._server, message, fds)
        else:
            protocol.close_all(fds)

    def elsewhere(self, message: protocol.Message, fds: list[int]) -> None:
        self._visitors.tell_front(message, fds)

    def allowed(self, rooms: list[str]) -> None:
        self._rooms = rooms

    def ready(self) -> None:
        self._served = True
        self._visitors.answer_asked()
        if self._server and not self._server.ready:
            self._server.ready = True
            self._visitors.tell_state("ready", "serving")
        if self._stops:
            self._signal_server(signal.SIGTERM)

    def keep(self, name: str, fd: int) -> None:
        if name == protocol.CONTROL:
            self._visitors.open_door(fd)
        elif name in self._kept:
            os.close(self._kept[name])
        self._kept[name] = fd

    # ---- exits

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if self._server and pid == self._server.pid:
                    self._protected(partial(self._server_ended, status))
                elif self._trial and pid == self._trial.pid:
                    self._protected(partial(self._tried, partial(self._trial.problem, status)))
                else:
                    self._protected(partial(self._jobs.reaped, pid, status))
