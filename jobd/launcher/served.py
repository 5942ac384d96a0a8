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


@dataclass(eq=False)
class Server:
    """A running server.

    Attributes:
        ready: it serves.
        allowed: what it may still ask for; everything, until it has said so.
    """

    pid: int
    channel: Channel
    started: float
    ready: bool = False
    allowed: Allowed | None = None

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
