"""Jobs that are forked and held as jobd's are, for :mod:`tests.benchmarks.references.bare`.

jobd promises that its jobs outlive its server, and that a stop finds all of their processes. So another process forks
them (:mod:`tests.benchmarks.references.holder`), each with its mark and into its control groups, where there are any.
There is no release, no second server, no user, limit, isolation or terminal, and nobody is looked for when a job has
ended: its groups are asked.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from jobd.launcher import protocol
from jobd.limits.detect import detect
from jobd.worker.containment import NO_LIMITS, Container, mark_of
from tests.benchmarks.correct import check
from tests.interop.stubs import ROOT

Said = tuple[protocol.Message, list[int]]


class Held:
    """What the holder says, and what it is told."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._containment = detect(f"bare-{os.getpid()}")
        self._said: dict[str, trio.MemorySendChannel[Said]] = {}

    async def listen(self) -> None:
        """Take what it says."""
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            heard = protocol.receive(self._sock)
            check(heard is not None, "who holds the jobs has gone")
            assert heard
            self._said[heard[0]["id"]].send_nowait(heard)

    def begin(self, job_id: str, argv: list[str]) -> Job:
        """Have a job forked in groups of its own."""
        container = self._containment.create(job_id, NO_LIMITS)
        send, receive = trio.open_memory_channel[Said](2)
        self._said[job_id] = send
        order = {"id": job_id, "argv": argv, "enter": list(container.entrances), "mark": mark_of(job_id)}
        protocol.send(self._sock, order)
        return Job(container, receive, lambda: self._said.pop(job_id))

    def close(self) -> None:
        """Leave no groups."""
        self._containment.close()


class Job:
    """A job that is held."""

    def __init__(self, container: Container, said: trio.MemoryReceiveChannel[Said], forget: Callable[[], Any]) -> None:
        self._container = container
        self._said = said
        self._forget = forget

    async def runs(self) -> tuple[int, list[int]]:
        """Its pid and its pipes."""
        message, fds = await self._said.receive()
        self._container.began_with(message["pid"])
        return message["pid"], fds

    async def ended(self) -> int:
        """Its wait status, once nobody is left of it; nor is anything else."""
        message, _ = await self._said.receive()
        self._forget()
        self._container.first_ended()
        check(self._container.is_empty(), "somebody is left of a held job")
        self._container.usage_of_all()
        check(self._container.remove_at_once(), "groups of a held job are left")
        return int(message["status"])


@asynccontextmanager
async def holding() -> AsyncIterator[Held]:
    """The block has a holder."""
    ours, theirs = protocol.pair()
    ours.setblocking(False)
    command = [sys.executable, "-m", "tests.benchmarks.references.holder", str(theirs.fileno())]
    holder = await trio.to_thread.run_sync(lambda: subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT))
    theirs.close()
    held = Held(ours)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(held.listen)
            yield held
            nursery.cancel_scope.cancel()
    finally:
        held.close()
        ours.close()
        holder.wait()
