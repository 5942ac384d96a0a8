"""The server that a launcher has now: started, spoken to, and held to what it may ask for.

Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from jobd.launcher import family, protocol
from jobd.launcher.allowed import Allowed
from jobd.launcher.channel import Channel

MOST_UNHEARD: Final = 10_000
"""Messages that a server without privileges may leave unheard; more would use up memory and descriptors here."""
FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 5.0
HEALTHY: Final = 3.0
"""Seconds that a server must have lived for its end to count as the first one again."""


@dataclass(eq=False)
class Server:
    """A running server.

    Attributes:
        saying: it serves, and says so now, to whoever waits for that.
        ready: it serves, and has said so.
        allowed: what it may still ask for; everything, until it has said so.
    """

    pid: int
    channel: Channel
    started: float
    saying: bool = False
    ready: bool = False
    allowed: Allowed | None = None
    _asked: bool = False

    def signal(self, signum: int) -> None:
        """It is our child, and not reaped: the pid is its own."""
        os.kill(self.pid, signum)

    def allow(self, message: protocol.Message) -> Allowed:
        """Hold it to this from now on. It has said nothing yet that it could not have said without."""
        self.allowed = Allowed.of(message)
        return self.allowed

    def leaves_nobody(self) -> bool:
        """It has ended: so does what it started, if it was not to be trusted. Jobs are other users'."""
        return self.allowed is None or family.end_those_of(self.allowed.server)

    @property
    def listens(self) -> bool:
        """It takes what it is told, as far as that counts."""
        return self.allowed is None or self.channel.behind <= MOST_UNHEARD

    def ask_whether_it_lives(self) -> None:
        """Once it serves, and unless it has so much to hear anyway."""
        if self.ready and not self.channel.behind:
            self._asked = True
            self.channel.tell({"op": "alive"})

    def answers(self) -> bool:
        """It says that it lives, having been asked: whoever says it unasked is not believed, nor passed on."""
        asked, self._asked = self._asked, False
        return asked


class Pauses:
    """Before a server that ended unasked is started again: ever longer ones, unless it had lived a while."""

    def __init__(self) -> None:
        self._next = 0.0

    def after(self, lived: float) -> float:
        """Seconds until the next one, after one that lived so long."""
        pause = 0.0 if lived > HEALTHY else self._next
        self._next = min(max(pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
        return pause


def start(
    wanted: protocol.Message,
    selector: selectors.BaseSelector,
    hear: Callable[[protocol.Message, list[int]], None],
    *,
    restarted: bool,
) -> Server:
    """Start one.

    Raises:
        OSError: it cannot be.
    """
    ours, theirs = protocol.pair()
    theirs.set_inheritable(True)
    environment = {**wanted["env"], protocol.SOCKET_ENVIRONMENT: str(theirs.fileno())}
    if restarted:
        environment[protocol.RESTART_ENVIRONMENT] = "1"
    command = wanted["command"]
    with theirs:
        try:
            pid = os.posix_spawn(command[0], command, environment)
        except OSError:
            ours.close()
            raise
    return Server(pid, Channel(ours, selector, hear), time.monotonic())


def go_to(directory: str) -> None:
    """Make it the present directory, if it can be."""
    with contextlib.suppress(OSError):  # removed since: what is started does as well without
        os.chdir(directory)
