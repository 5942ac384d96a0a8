"""A launcher whose processes are scripted: it does what the real one does, and outlives the servers that ask it.

A process is only a row here, with two real pipes. What it does stands in the job's arguments (:class:`Script`); when it
does it, the test says. Time is virtual, and so nothing here waits for anything but the test.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import trio

from jobd.launcher.pipe import FdPipe
from jobd.limits.walk import Walk
from jobd.worker.containment import Member, Usage
from jobd.worker.errors import LaunchError
from jobd.worker.identity import own
from jobd.worker.isolation import NO_MEANS
from jobd.worker.job import JobSpec, Reason
from jobd.worker.ports import Pipe, Source

FIRST_WORDS: Final = b"begun\n"
LAST_WORDS: Final = b"done\n"


class CrashedError(BaseException):
    """What those who wait for an answer get when their server has crashed; no Exception, since nobody handles it."""


@dataclass(frozen=True)
class Script:
    """How a job behaves.

    Attributes:
        tag: no other request has it.
        launch: "prompt", "slow" (it is launched when the test says so) or "fails".
        ignores: the signals that do nothing to it.
    """

    tag: str
    launch: str = "prompt"
    ignores: tuple[int, ...] = ()

    def spec(self, **fields: str) -> JobSpec:
        """The spec that says so; and its user, which the broker would fill in."""
        argv = (self.tag, self.launch, *(str(signum) for signum in self.ignores))
        return JobSpec(argv, user=own().name, **fields)  # type: ignore[arg-type] # the caller's fields are JobSpec's

    @classmethod
    def of(cls, spec: JobSpec) -> Script:
        tag, launch, *ignores = spec.argv
        return cls(tag, launch, tuple(int(signum) for signum in ignores))


@dataclass
class Child:
    """A process, from the fork on.

    Attributes:
        pipes: (reading, writing) ends; the launcher keeps both, as a process would keep the writing one.
        asked: signals that were sent to it.
    """

    id: str
    script: Script
    launcher: str
    pid: int
    pipes: dict[Source, tuple[int, int]]
    executed: bool = False
    status: int | None = None
    written: int = 0
    started_at: int = field(default_factory=time.time_ns)
    asked: list[int] = field(default_factory=list)

    def close(self, *, writing: bool = True, reading: bool = True) -> None:
        for read_end, write_end in self.pipes.values():
            if writing:
                os.close(write_end)
            if reading:
                os.close(read_end)


class World:
    """What no crash of ours undoes: which processes ran, how often, and how each ended."""

    def __init__(self) -> None:
        self.boot = 1
        self.children: dict[str, Child] = {}  # by job id, those of all launchers
        self.executions: Counter[str] = Counter()  # by job id
        self.launcher = ScriptedLauncher(self, 1)

    def lose_launcher(self, *, reboot: bool) -> None:
        """The launcher is killed, and its processes with it, or with the machine."""
        self.launcher.close()
        self.boot += reboot
        self.launcher = ScriptedLauncher(self, self.launcher.number + 1)

    @property
    def running(self) -> list[Child]:
        """The processes of the launcher that lives, and that have not ended."""
        return [child for child in self.launcher.children.values() if child.executed and child.status is None]

    @property
    def unlaunched(self) -> list[Child]:
        """Those that are forked and have not executed."""
        return [child for child in self.launcher.children.values() if not child.executed]


class ScriptedLauncher:
    """Like ``jobd.launcher.launcher.Launcher``: remembers each job until its exit is acknowledged."""

    def __init__(self, world: World, number: int) -> None:
        self.number = number
        self.identity = f"boot-{world.boot}/{number}"
        self.children: dict[str, Child] = {}
        self.link: Link | None = None
        self._world = world

    def launch(self, job_id: str, spec: JobSpec) -> None:
        child = self.children.get(job_id)
        if child is None:
            pipes = {source: os.pipe2(os.O_CLOEXEC) for source in Source}
            child = Child(job_id, Script.of(spec), self.identity, 100_000 + len(self._world.children), pipes)
            self.children[job_id] = child
            if child.script.launch != "slow":
                self.proceed(child)
        elif child.executed and self.link:  # asked before, by a server that did not live to hear the answer
            self.link.launched(child)

    def proceed(self, child: Child) -> None:
        """The process executes its command, or fails to."""
        if child.script.launch == "fails":
            del self.children[child.id]
            child.close()
            if self.link:
                self.link.failed(child)
            return
        child.executed = True
        self._world.children[child.id] = child
        self._world.executions[child.id] += 1
        self._write(child, Source.STDOUT, FIRST_WORDS)
        if self.link:
            self.link.launched(child)

    def exit(self, child: Child, status: int) -> None:
        """The process ends, and is reaped."""
        self._write(child, Source.STDERR, LAST_WORDS)
        child.status = status
        child.close(reading=False)
        if self.link:
            self.link.exited(child)

    def signal(self, job_id: str, signum: int) -> None:
        child = self.children.get(job_id)
        if child and child.status is None:
            child.asked.append(signum)
            if signum == signal.SIGKILL or (signum != signal.SIGCONT and signum not in child.script.ignores):
                self.exit(child, signum)

    def release(self, job_id: str) -> None:
        child = self.children.get(job_id)
        if child and child.status is not None:
            child.close(writing=False)
            del self.children[job_id]

    def close(self) -> None:
        for child in self.children.values():
            child.close(writing=child.status is None)
        self.children = {}

    @staticmethod
    def _write(child: Child, source: Source, words: bytes) -> None:
        child.written += os.write(child.pipes[source][1], words)


class Link:
    """One server's side of it, as ``jobd.launcher.link.LauncherLink``; :meth:`cut` when the server is no more."""

    def __init__(self, launcher: ScriptedLauncher) -> None:
        self.launcher = launcher
        self._processes: dict[str, LinkedProcess] = {}
        self._launching: dict[str, _Launch] = {}
        launcher.link = self
        for child in launcher.children.values():
            if child.executed:
                self._processed(child)
        self.adopted = dict(self._processes)
        self._cut = False

    containment = Walk()  # of its name and limits, no more: these processes are none that it would find
    means = NO_MEANS

    @property
    def identity(self) -> str:
        return self.launcher.identity

    async def launch(self, job_id: str, spec: JobSpec) -> LinkedProcess:
        if self._cut:
            raise CrashedError
        waiting = self._launching[job_id] = _Launch()
        self.launcher.launch(job_id, spec)
        await waiting.answered.wait()
        del self._launching[job_id]
        if self._cut:
            raise CrashedError
        if waiting.process is None:
            raise LaunchError(Reason.COMMAND_NOT_FOUND, "no such command")
        return waiting.process

    def take_adopted(self, job_id: str) -> LinkedProcess | None:
        return self.adopted.pop(job_id, None)

    async def find_outlived(self, job_id: str, pid: int, launcher: str) -> None:
        """Nothing outlives its launcher here."""

    def release_adopted(self, job_id: str) -> None:
        if process := self.adopted.pop(job_id, None):
            process.let_go()
            self.release(job_id)

    def signal(self, job_id: str, signum: int) -> None:
        if not self._cut:
            self.launcher.signal(job_id, signum)

    def release(self, job_id: str) -> None:
        self._processes.pop(job_id, None)
        if not self._cut:
            self.launcher.release(job_id)

    # ---- facts

    def launched(self, child: Child) -> None:
        process = self._processed(child)
        if waiting := self._launching.get(child.id):
            waiting.process = process
            waiting.answered.set()

    def failed(self, child: Child) -> None:
        if waiting := self._launching.get(child.id):
            waiting.answered.set()

    def exited(self, child: Child) -> None:
        if process := self._processes.get(child.id):
            process.ended.set()

    def _processed(self, child: Child) -> LinkedProcess:
        if child.id not in self._processes:
            self._processes[child.id] = LinkedProcess(self, child)
        return self._processes[child.id]

    def cut(self) -> None:
        """The server has crashed, or ended: nothing that it says arrives from now on."""
        self._cut = True
        self.launcher.link = None
        for waiting in self._launching.values():
            waiting.answered.set()

    def abandon(self) -> None:
        """Let go of those who wait for processes, in a server that does not end when it should."""
        for process in self._processes.values():
            process.abandoned = True
            process.ended.set()

    def close(self) -> None:
        """What the kernel does for a process that has ended."""
        for process in self._processes.values():
            process.let_go()


class _Launch:
    def __init__(self) -> None:
        self.answered = trio.Event()
        self.process: LinkedProcess | None = None


class LinkedProcess:
    """A child of the scripted launcher, as a :class:`jobd.worker.ports.Process`."""

    def __init__(self, link: Link, child: Child) -> None:
        self._link = link
        self._child = child
        self._pipes = {source: FdPipe(os.dup(child.pipes[source][0])) for source in Source}
        self._taken = False
        self.abandoned = False
        self.ended = trio.Event()
        if child.status is not None:
            self.ended.set()

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def started_at(self) -> int | None:
        return self._child.started_at

    def pipe(self, source: Source) -> Pipe:
        self._taken = True
        return self._pipes[source]

    async def exited(self) -> int | None:
        await self.ended.wait()
        if self.abandoned:
            raise CrashedError
        return self._child.status

    proof = "script"
    stdin = None

    @property
    def main_pid(self) -> int:
        return self.pid

    async def carry(self) -> None:
        """It has no terminal."""

    async def members(self) -> list[Member]:
        alive = self._child.status is None
        return [Member(self.pid, 1, "scripted", left_session=False)] if alive else []

    async def signal(self, signum: int) -> None:
        self._link.signal(self._child.id, signum)

    def signal_main(self, signum: int) -> None:
        self._link.signal(self._child.id, signum)

    async def kill(self) -> None:
        self._link.signal(self._child.id, signal.SIGKILL)

    async def is_empty(self) -> bool:
        return self._child.status is not None

    async def usage(self) -> Usage:
        return Usage()

    async def release(self) -> None:
        self._link.release(self._child.id)

    def let_go(self) -> None:
        if not self._taken:
            self._taken = True
            for pipe in self._pipes.values():
                os.close(pipe.fileno())
