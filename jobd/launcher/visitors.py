"""Those who come to a launcher: at most one front, which it serves, and those who ask it for an upgrade.

Standard library only.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from jobd.launcher import protocol
from jobd.launcher.channel import Channel

NO_DESCRIPTORS_PAUSE: Final = 0.05
_VERSION: Final = {"version": protocol.VERSION}


class Host(Protocol):
    """Whom they come to."""

    def keep(self, name: str, fd: int) -> None:
        """Hold a descriptor for the servers to come."""

    def serve(self, wanted: protocol.Message, *, first: bool) -> None:
        """A front wants to be served, the first one or a later one."""

    def signalled(self, signum: int) -> None:
        """The front passes a signal on."""

    def ask_whether_it_lives(self) -> None:
        """The front wants to know whether the server answers; if it does, the front is told "alive"."""

    def upgrade(self) -> None:
        """Somebody asks for an upgrade, and waits for :meth:`Visitors.answer_asked`."""

    def left_alone(self) -> None:
        """A visitor has gone."""

    def turned_away(self, uid: int) -> None:
        """Somebody came who may not ask for anything."""


@dataclass(eq=False)
class _Visitor:
    """Who is connected."""

    channel: Channel = field(init=False)


class Visitors:
    """Those who are connected now.

    Attributes:
        wanted: what the last front asked for: command, launcher, env, cwd; and given, whether the socket to listen on
            is from it. None before the first.
    """

    def __init__(self, selector: selectors.BaseSelector, host: Host) -> None:
        self._selector = selector
        self._host = host
        self._door: socket.socket | None = None
        self._all: set[_Visitor] = set()
        self._front: _Visitor | None = None
        self._asked: list[_Visitor] = []
        self.wanted: protocol.Message | None = None

    @property
    def front(self) -> bool:
        """There is one."""
        return self._front is not None

    # ---- coming and going

    def open_door(self, fd: int) -> None:
        """Take visitors from this listening socket, in place of the one before it (which this closes)."""
        if self._door:
            self._selector.unregister(self._door)
            self._door.close()
        self._door = socket.socket(fileno=fd)
        self._door.setblocking(False)
        self._selector.register(self._door, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        assert self._door
        try:
            sock = self._door.accept()[0]
            uid = protocol.peer_of(sock)
            if uid in (0, os.geteuid()):
                self.welcome(sock)
            else:  # what a front asks for is executed as our user
                sock.close()
                self._host.turned_away(uid)
        except BlockingIOError:
            pass
        except OSError:
            time.sleep(NO_DESCRIPTORS_PAUSE)  # whoever waits goes on being there; not at full speed, then

    def welcome(self, sock: socket.socket) -> None:
        """Listen to somebody."""
        visitor = _Visitor()
        visitor.channel = Channel(sock, self._selector, partial(self._hear, visitor), partial(self._lost, visitor))
        self._all.add(visitor)

    def _hear(self, visitor: _Visitor, message: protocol.Message, fds: list[int]) -> None:
        if message.get("op") == "serve" and len(fds) in (3, 4):
            self._serve(visitor, *fds)
            return
        protocol.close_all(fds)  # nobody else is to send any
        match message.get("op"):
            case "knock":
                visitor.channel.tell({"op": "busy" if self._front else "serving", **_VERSION})
            case "signal" if visitor is self._front:
                self._host.signalled(message["signal"])
            case "alive" if visitor is self._front:
                self._host.ask_whether_it_lives()
            case "upgrade":
                self._asked.append(visitor)
                self._host.upgrade()

    def _serve(self, visitor: _Visitor, memfd: int, out: int, err: int, listener: int | None = None) -> None:
        """Be this front's, and write where it does, unless there is another, or it has gone meanwhile."""
        wanted = _wish(memfd)
        free = wanted is not None and self._front is None and visitor.channel.other_side_is_there()
        if free:
            os.dup2(out, 1)
            os.dup2(err, 2)
        protocol.close_all([out, err])
        visitor.channel.tell({"op": "serving" if free else "busy", **_VERSION})
        if free and wanted is not None:
            first, self.wanted, self._front = self.wanted is None, {**wanted, "given": listener is not None}, visitor
            if listener is not None:
                self._host.keep(protocol.LISTENER, listener)
            self._host.serve(wanted, first=first)
        elif listener is not None:
            os.close(listener)

    def _lost(self, visitor: _Visitor) -> None:
        """A front that is killed takes nothing with it: server and jobs go on, and the next front finds them."""
        self._all.discard(visitor)
        visitor.channel.close()
        if visitor in self._asked:
            self._asked.remove(visitor)
        if visitor is self._front:
            self._front = None
        self._host.left_alone()

    # ---- speaking to them

    def tell_front(self, message: protocol.Message, fds: list[int]) -> None:
        """Say something to the front, if there is one."""
        if self._front:
            self._front.channel.tell(message, fds)
        else:
            protocol.close_all(fds)

    def tell_state(self, state: str, said: str) -> None:
        """Say to the front how the server is, for whoever watches that: ready, reloading, stopping or down."""
        self.tell_front({"op": "state", "state": state, "said": said}, [])

    def dismiss_front(self, code: int) -> None:
        """There is no more to be served: the front ends with this code."""
        if self._front:
            self.tell_front({"op": "ended", "code": code}, [])
            self._lost(self._front)

    def answer_asked(self, problem: str = "") -> None:
        """Answer those who asked for an upgrade: it is done, or why it is not."""
        for visitor in self._asked:
            visitor.channel.tell({"op": "failed", "why": problem} if problem else {"op": "upgraded"})
        self._asked.clear()

    # ---- over an execve(2)

    def fds(self) -> list[int]:
        """The descriptors that are held (but for the door, which is somebody else's to keep)."""
        return [visitor.channel.fileno() for visitor in self._all]

    def state(self) -> protocol.Message:
        """All that :meth:`take_over` needs."""
        return {
            "all": self.fds(),
            "front": self._front.channel.fileno() if self._front else None,
            "asked": [visitor.channel.fileno() for visitor in self._asked],
            "wanted": self.wanted,
        }

    def take_over(self, state: protocol.Message) -> None:
        """Go on with those whom this process had before it executed itself anew."""
        for fd in state["all"]:
            self.welcome(socket.socket(fileno=fd))
        by_fd = {visitor.channel.fileno(): visitor for visitor in self._all}
        self._front = by_fd.get(state["front"])
        self._asked = [by_fd[fd] for fd in state["asked"]]
        self.wanted = state["wanted"]


def _wish(memfd: int) -> protocol.Message | None:
    """What a front asks for, if that is what it is."""
    try:
        wish = protocol.from_memfd(memfd)
    except (OSError, ValueError, AssertionError):
        return None
    return wish if wish.keys() >= {"command", "launcher", "env", "cwd"} else None
