"""What a server asks a launcher for: done, or refused, if the server has given up the right to it.

Standard library only.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Protocol

from jobd.launcher import family, protocol
from jobd.launcher.allowed import RefusedError
from jobd.launcher.jobs import Jobs
from jobd.launcher.served import Server


class Host(Protocol):
    """Does what is not about jobs."""

    def keep(self, name: str, fd: int) -> None:
        """Hold a descriptor for the next server."""

    def ready(self) -> None:
        """The server serves."""

    def alive(self) -> None:
        """The server says that it lives."""

    def elsewhere(self, message: protocol.Message, fds: list[int]) -> None:
        """The front is to be served by another launcher."""

    def allowed(self, rooms: list[str]) -> None:
        """The server will have no privileges, and not be able to remove these directories of control groups."""


class Orders:
    """Those of all servers, one after another."""

    def __init__(self, jobs: Jobs, host: Host, say: Callable[[str], None]) -> None:
        self._jobs = jobs
        self._host = host
        self._say = say

    def take(self, server: Server, message: protocol.Message, fds: list[int]) -> None:
        """Do what this server asks for."""
        try:
            if server.allowed:
                server.allowed.see_to(message, fds)
        except RefusedError as exc:
            protocol.close_all(fds)
            asked = ascii(message.get("op"))[:20]
            self._say(f"the server asks for what it may not ({asked}), and is refused: {exc}")
            return
        self._do(server, message, fds)

    def _do(self, server: Server, message: protocol.Message, fds: list[int]) -> None:
        match message["op"]:
            case "launch":
                self._launch(server, message["id"], fds)
            case "signal":
                self._signal(server, message["id"], message["signal"], main=message.get("main", False))
            case "signal_pids":
                self._signal_pids(server, message)
            case "close_stdin":
                self._jobs.close_stdin(message["id"])
            case "release":
                self._jobs.release(message["id"])
            case "keep":
                self._host.keep(message["name"], *fds)
            case "allow":
                self._host.allowed(server.allow(message).rooms)
            case "saying":
                server.saying = True
            case "ready":
                self._host.ready()
            case "alive":
                self._host.alive()
            case "elsewhere":
                self._host.elsewhere(message, fds)
            case _:
                protocol.close_all(fds)

    def _launch(self, server: Server, id: str, fds: list[int]) -> None:
        try:
            self._jobs.launch(id, *fds, allowed=server.allowed)
        except RefusedError as exc:
            self._say(f"job {id} is not started: {exc}")
            server.channel.tell({"op": "failed", "id": id, "stage": "refused", "errno": errno.EPERM})

    def _signal(self, server: Server, id: str, signum: int, *, main: bool) -> None:
        if server.allowed:
            self._jobs.signal_carefully(id, signum, main=main, but=server.pid)
        else:
            self._jobs.signal(id, signum, main=main)

    def _signal_pids(self, server: Server, message: protocol.Message) -> None:
        pids = [(pid, started) for pid, started in message["pids"]]
        strangers = family.signal_descendants(pids, message["signal"], but=server.pid)
        if strangers and message.get("id"):  # there may be some of a job that has outlived its launcher
            from jobd.worker.containment import mark_of  # hashlib is large, and this is rare

            strangers = family.signal_marked(strangers, message["signal"], mark_of(message["id"]))
        if strangers:
            found = [pid for pid, _ in strangers[:10]]
            self._say(f"the server asks for signals to processes that are no job's ({found}), and is refused")
        server.channel.tell({"op": "signalled", "number": message["number"]})
