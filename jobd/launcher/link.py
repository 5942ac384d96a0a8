"""The server's side of the socket to the launcher: a :class:`jobd.worker.ports.Launcher`, and what is adopted.

Nothing here decides anything about a job: it carries wishes to the launcher, and facts from it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from api.errors import ConfigError
from jobd.launcher import protocol
from jobd.launcher.environment import (
    UMASK,
    give_up,
    identity_of,
    launch_error,
    make_container,
    program_of,
    see_to_isolation,
)
from jobd.launcher.launched import LaunchedProcess
from jobd.launcher.outlived import OutlivedProcess, find_outlived
from jobd.launcher.stdin import giving
from jobd.worker.containment import Container, Containment
from jobd.worker.errors import LauncherGoneError, LaunchError
from jobd.worker.isolation import NO_MEANS, Means
from jobd.worker.job import JobSpec, Reason

if TYPE_CHECKING:
    from jobd.launcher.allowed import Allowed

log = structlog.get_logger(__name__)

PATIENCE: Final = 5.0
"""Seconds for which the end of a server waits for a launcher that does not listen."""


class LauncherLink:
    """Made by :func:`open_link`.

    Attributes:
        identity: which launcher it is, and since which boot; another one knows nothing of this one's jobs.
        adopted: the processes that an earlier server had started, by job id.
        kept: descriptors that an earlier server left with the launcher, by name.
        given: the listening socket among them is from whoever started jobd, and to be used whatever its address.
        gone: set when the launcher has ended.
        leave: set when this server is to end, and to leave the jobs to the next one.
        end: this server is there to end the jobs.
        confined: this process has given up its privileges, and reaches jobs of other users through the launcher alone.
    """

    def __init__(self, sock: socket.socket, containment: Containment, means: Means) -> None:
        self._socket = sock
        self.containment = containment
        self.means = means
        self._processes: dict[str, LaunchedProcess] = {}
        self._launching: dict[str, _Launch] = {}
        # Bounded by what is asked for: a launch is waited for, a job has few signals and one release.
        self._unsent: deque[tuple[protocol.Message, list[int]]] = deque()
        self._more_unsent = trio.Event()
        self._all_sent = trio.Event()
        self._version = 0
        self.identity = ""
        self.adopted: dict[str, LaunchedProcess] = {}
        self.kept: dict[str, int] = {}
        self.given = False
        self.gone, self.leave = trio.Event(), trio.Event()
        self.end = False
        self.confined = False
        self._signalling: dict[int, trio.Event] = {}
        self._numbers = itertools.count(1)  # 0: nobody waits for it

    # ---- wishes

    async def launch(self, job_id: str, spec: JobSpec) -> LaunchedProcess:
        """Start the command. Asking again for the same job is the same process.

        Raises:
            LaunchError: it could not be started.
        """
        if self.gone.is_set():
            raise LaunchError(Reason.LAUNCH_REFUSED, str(LauncherGoneError()))
        see_to_isolation(self.means, spec)
        who = await identity_of(spec)
        container = await make_container(self.containment, job_id, spec)
        try:
            return await self._launch(job_id, spec, container, program_of(job_id, spec, container, self.means, who))
        except LaunchError as exc:
            await give_up(self.containment, container, spec, exc)
            raise

    async def _launch(
        self, job_id: str, spec: JobSpec, container: Container, program: dict[str, Any]
    ) -> LaunchedProcess:
        if unknown := self._unknown(program):
            why = "the launcher is older than this server; 'jobd upgrade' replaces it"
            raise LaunchError(Reason.LAUNCH_REFUSED, f"the job cannot be given its {unknown}: {why}")
        waiting = self._launching[job_id] = _Launch(container)
        try:
            with giving(spec) as stdin:
                memfd = protocol.as_memfd(program)
                self._send({"op": "launch", "id": job_id}, [memfd, *map(os.dup, stdin)])
            await waiting.answered.wait()
        except OSError as exc:
            raise LaunchError(Reason.LAUNCH_REFUSED, f"the job cannot be started now: {exc.strerror}") from exc
        finally:
            del self._launching[job_id]
        if waiting.process:
            return waiting.process
        if waiting.failure is None:
            raise LaunchError(Reason.LAUNCH_REFUSED, "the launcher ended while it started the job")
        stage, number, said = waiting.failure
        raise launch_error(number, spec, stage, said)

    def _unknown(self, program: dict[str, Any]) -> str:
        """What of this the launcher does not know, being older; what it is to be isolated with was seen to before."""
        if self._version < protocol.RUNS_AS_OTHERS and (program["identity"] or program["umask"] != UMASK):
            return "user or umask"
        if self._version < protocol.FEEDS and program["stdin"] != "none":
            return "stdin"
        return "I/O class" if self._version < protocol.ISOLATES and program["io_priority"] else ""

    def keep(self, name: str, fd: int) -> None:
        """Leave a duplicate of a descriptor with the launcher, for the server that comes after this one."""
        self._send({"op": "keep", "name": name}, [os.dup(fd)])

    def saying(self) -> None:
        """Say that this server is about to tell that it serves: if it is killed, the next one tells it again."""
        if self._version >= protocol.HEARS_SAYING:
            self._send({"op": "saying"})

    def ready(self) -> None:
        """Say that this server serves, and has told: from now on it is started again when it ends unasked."""
        self._send({"op": "ready"})

    def go_elsewhere(self, path: str, holder: str, sock: socket.socket) -> None:
        """Say that the launcher at the other end of ``sock`` has the state directory: it is to serve the front."""
        protocol.send(self._socket, {"op": "elsewhere", "path": path, "pid": holder}, [sock.fileno()])

    def signal(self, job_id: str, signum: int, *, main: bool = False) -> None:
        """Send a signal to a job's process group, or to its main process alone."""
        self._send({"op": "signal", "id": job_id, "signal": signum, **({"main": True} if main else {})})

    def signal_pids(self, job_id: str, targets: Sequence[tuple[int, int]], signum: int) -> None:
        """To processes of a job (pid, start in ticks since boot). Blocks a thread until it is sent, or cannot be."""
        for first in range(0, len(targets), protocol.MOST_PIDS):
            trio.from_thread.run(self._signal_pids, job_id, targets[first : first + protocol.MOST_PIDS], signum)

    async def _signal_pids(self, job_id: str, targets: Sequence[tuple[int, int]], signum: int) -> None:
        if self.gone.is_set():
            await trio.lowlevel.checkpoint()
            return
        number = next(self._numbers)
        sent = self._signalling[number] = trio.Event()
        try:
            self._ask_for_signal(job_id, targets, signum, number)
            await sent.wait()
        finally:
            del self._signalling[number]

    def _ask_for_signal(self, job_id: str, targets: Sequence[tuple[int, int]], signum: int, number: int = 0) -> None:
        self._send({"op": "signal_pids", "number": number, "signal": signum, "id": job_id, "pids": targets})

    async def allow(self, allowed: Allowed) -> None:
        """Say what the launcher may still be asked for; returns when it is said, and all before it.

        Raises:
            LauncherGoneError: it ended, or does not listen.
            ConfigError: it is older than this server, and would go on to do everything.
        """
        if self._version < protocol.CONFINES:
            why = "the launcher is older than this server: 'jobd upgrade' without the setting, first"
            raise ConfigError(f"--user cannot be had here: {why}")
        self._send({"op": "allow", **asdict(allowed)})
        await self.flush()
        if self._unsent or self.gone.is_set():
            raise LauncherGoneError
        self.confined = True

    async def close_stdin(self, job_id: str) -> None:
        """Have the launcher let go of a job's stdin; returns when it will, whatever becomes of this process."""
        self._send({"op": "close_stdin", "id": job_id})
        while self._unsent and not self.gone.is_set():
            await self._all_sent.wait()

    def _send(self, message: protocol.Message, fds: list[int] | None = None) -> None:
        """Say something, in the order of the calls, however far behind the launcher is. The descriptors are ours."""
        if not self._unsent:
            with contextlib.suppress(OSError):  # it is gone, most likely: speak() meets that too
                if self._said(message, fds or []):
                    return
        self._unsent.append((message, fds or []))
        if self._all_sent.is_set():
            self._all_sent = trio.Event()
        self._more_unsent.set()

    async def speak(self) -> None:
        """Send what there is to say, as long as the launcher lives."""
        while True:
            await self._more_unsent.wait()
            self._more_unsent = trio.Event()
            while self._unsent:
                try:
                    said = self._said(*self._unsent[0])
                except OSError:
                    return  # it is gone; whoever listens hears of that too
                if said:
                    self._unsent.popleft()
                else:
                    await trio.lowlevel.wait_writable(self._socket)
            self._all_sent.set()

    def _said(self, message: protocol.Message, fds: list[int]) -> bool:
        """Say it now, and close the descriptors; False when the launcher is too far behind."""
        try:
            protocol.send(self._socket, message, fds)
        except BlockingIOError:
            return False
        protocol.close_all(fds)
        return True

    async def flush(self) -> None:
        """Wait until everything was said, as long as the launcher lives and listens."""
        if self._unsent and not self.gone.is_set():
            with trio.move_on_after(PATIENCE):
                await self._all_sent.wait()

    # ---- facts

    async def greet(self) -> None:
        """Take what the launcher tells a new server: what it keeps, and the jobs that it has.

        Raises:
            LauncherGoneError: it ended meanwhile.
        """
        while True:
            message, fds = await self._receive()
            if message["op"] == "hello":
                self._version = message["version"]
                self.identity, self.end, self.given = message["launcher"], message["end"], message.get("given", False)
                self.kept = dict(zip(message["kept"], fds, strict=True))
                self._mind()
            elif message["op"] == "known":
                self.adopted = dict(self._processes)
                return
            else:
                self._take(message, fds)

    def _mind(self) -> None:
        """Ask no more than the launcher can do."""
        if self._version < protocol.ISOLATES:
            why = "the launcher is older than this server, and knows nothing of it: 'jobd upgrade'"
            self.means = self.means.without_any(why)

    async def listen(self) -> None:
        """Take facts as long as the launcher lives."""
        try:
            while True:
                message, fds = await self._receive()
                self._take(message, fds)
        except LauncherGoneError:
            log.error("the launcher has ended: jobs go on, new ones are refused; this server ends when they have ended")
            self.gone.set()
            self._all_sent.set()
            for waiting in self._launching.values():
                waiting.answered.set()
            for sent in self._signalling.values():
                sent.set()
            async with trio.open_nursery() as nursery:
                for process in self._processes.values():
                    nursery.start_soon(process.outlive_launcher)

    async def _receive(self) -> tuple[protocol.Message, list[int]]:
        while True:
            try:
                heard = protocol.receive(self._socket)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
                continue
            except ConnectionError:
                heard = None
            if heard is None:
                raise LauncherGoneError
            await trio.lowlevel.checkpoint()
            return heard

    def _take(self, message: protocol.Message, fds: list[int]) -> None:
        match message["op"]:
            case "job" | "launched":
                waiting = self._launching.get(message["id"])
                process = self._processes.get(message["id"])
                if process is None:  # the first message about it
                    process = LaunchedProcess(self, message, fds, waiting.container if waiting else None)
                    self._processes[message["id"]] = process
                else:
                    protocol.close_all(fds)
                if waiting:
                    waiting.process = process
                    waiting.answered.set()
            case "failed":
                if waiting := self._launching.get(message["id"]):
                    waiting.failure = (message["stage"], message["errno"], message.get("said", ""))
                    waiting.answered.set()
            case "signalled":
                if (sent := self._signalling.get(message["number"])) is not None:
                    sent.set()
            case "leave":
                self.leave.set()
            case "alive":  # heard and answered by the loop in which every call is: it turns
                self._send({"op": "alive"})
            case "exited":
                if process_or_none := self._processes.get(message["id"]):
                    process_or_none.take_status(message["status"])

    def release_adopted(self, job_id: str) -> None:
        """A job that an earlier server had recorded the end of, and did not live to acknowledge."""
        if process := self.adopted.pop(job_id, None):
            process.close()
            self.forget(job_id)

    def take_adopted(self, job_id: str) -> LaunchedProcess | None:
        """The process that an earlier server had started for a job, if there is one."""
        return self.adopted.pop(job_id, None)

    async def find_outlived(self, job_id: str, pid: int, launcher: str) -> OutlivedProcess | None:
        """What is left of a job that another launcher made, if anything is."""
        by, ask = "" if launcher == self.identity else launcher, lambda *wish: self._ask_for_signal(job_id, *wish)
        return await find_outlived(self.containment, job_id, pid, by, ask)

    def forget(self, job_id: str) -> None:
        """The job's exit is recorded: the launcher need not remember it."""
        self._processes.pop(job_id, None)
        self._send({"op": "release", "id": job_id})

    def close(self) -> None:
        """Let go of everything; the launcher keeps what the next server needs."""
        for process in self._processes.values():
            process.close()
        for _, fds in self._unsent:
            protocol.close_all(fds)
        self._socket.close()


class _Launch:
    """A launch that was asked for and not answered yet."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.answered = trio.Event()
        self.process: LaunchedProcess | None = None
        self.failure: tuple[str, int, str] | None = None


async def _serve(link: LauncherLink, life: trio.CancelScope) -> None:
    """Work on though everything is cancelled: jobs that are being ended are ended through the link."""
    with life:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.listen)
            nursery.start_soon(link.speak)


@contextlib.asynccontextmanager
async def open_link(fd: int, containment: Containment, means: Means = NO_MEANS) -> AsyncIterator[LauncherLink]:
    """Take up the socket that the launcher gave this process.

    Args:
        containment: what is to hold the jobs together.
        means: what they can be isolated with.

    Raises:
        LauncherGoneError: the launcher ended meanwhile.
    """
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    sock.set_inheritable(False)
    link = LauncherLink(sock, containment, means)
    try:
        await link.greet()
        async with trio.open_nursery() as nursery:
            life = trio.CancelScope(shield=True)
            nursery.start_soon(_serve, link, life)
            try:
                yield link
            finally:
                with trio.CancelScope(shield=True):
                    await link.flush()
                life.cancel()
    finally:
        with contextlib.suppress(OSError):
            link.close()
