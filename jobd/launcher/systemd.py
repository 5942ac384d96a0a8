"""Who started jobd, if that is systemd: it is told how jobd is, and gives the socket to listen on.

What is said in the environment is for the process that systemd started, and is taken out of there: neither launcher,
server nor job may speak to systemd in its name (sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3)).

Standard library only.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import MutableMapping
from typing import Final

from jobd.launcher.console import say

FIRST: Final = 3
"""SD_LISTEN_FDS_START."""
PATIENCE: Final = 5.0
"""Seconds for systemd to take what it is told."""
LONGEST: Final = 200
"""Characters of a status."""


class Systemd:
    """Made once, at the start of the process that systemd started.

    Attributes:
        pulse: seconds, in which it is to hear at least twice that the server lives; None when it does not care.
        listener: a descriptor of the socket to listen on, not inheritable; None when none was given.
        problem: why what was given cannot be used; "" when it can.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """Take out of the environment what systemd says there."""
        said = {name: environment.pop(name, "") for name in _VARIABLES}
        self._address = _address(said["NOTIFY_SOCKET"])
        microseconds = _number(said["WATCHDOG_USEC"]) if said["WATCHDOG_PID"] in ("", str(os.getpid())) else 0
        self.pulse = microseconds / 1e6 / 2 if self._address and microseconds else None
        count = _number(said["LISTEN_FDS"]) if said["LISTEN_PID"] == str(os.getpid()) else 0
        self.listener: int | None = None
        self.problem = self._take(count) if count else ""
        self._ready = False

    def _take(self, count: int) -> str:
        """Take the one socket; the others are nobody's, and are left closed to what is started here."""
        for fd in range(FIRST, FIRST + min(count, _MOST)):
            try:
                os.set_inheritable(fd, False)
                if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                    return f"what systemd gave as descriptor {fd} (LISTEN_FDS) is no socket"
            except OSError as exc:
                return f"what systemd gave as descriptor {fd} (LISTEN_FDS) cannot be used: {exc.strerror}"
        self.listener = FIRST
        return "" if count == 1 else f"systemd gave {count} sockets; jobd listens on one: leave one ListenStream="

    # ---- what it is told

    def state(self, state: str, said: str) -> None:
        """Tell how jobd is, in the words of the launcher: ready, reloading, stopping or down.

        Args:
            said: for people; a line.
        """
        status = "".join(each if each.isprintable() else "?" for each in said)[:LONGEST]
        match state:
            case "ready":
                self._ready = True
                self._tell("READY=1", f"STATUS={status}")
            case "reloading" if self._ready:
                # Since when, so that systemd knows it from what was told before it asked (Type=notify-reload).
                now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
                self._tell("RELOADING=1", f"MONOTONIC_USEC={now}", f"STATUS={status}")
            case "stopping":
                self._tell("STOPPING=1", f"STATUS={status}")
            case _:
                self._tell(f"STATUS={status}")

    def lives(self) -> None:
        """Tell that the server has just answered."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(PATIENCE)
                sock.sendto("\n".join(lines).encode(errors="replace"), self._address)
        except OSError as exc:
            say(f"systemd cannot be told {lines[0]}: {exc.strerror or exc}")


_MOST: Final = 1024
_VARIABLES: Final = (
    "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID",
)  # fmt: skip


def _address(text: str) -> str:
    """Where to tell: a path, or a name in the abstract namespace. Of what else there may be, nothing is known here."""
    if text.startswith("@"):
        return "\0" + text[1:]
    return text if text.startswith("/") else ""


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0
