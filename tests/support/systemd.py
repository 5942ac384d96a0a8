"""What systemd is for a service, without systemd: a socket that hears of it, and the socket that it is given."""

from __future__ import annotations

import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.patience import patient

STARTER = """import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=sys.argv[2], WATCHDOG_PID=str(os.getpid()))
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Becomes a program that is given a descriptor as systemd gives it: arguments are its number, and how many are said to
be there."""


@dataclass
class Systemd:
    """It hears.

    Attributes:
        address: as NOTIFY_SOCKET has it.
    """

    address: str
    _sock: socket.socket

    def next(self) -> dict[str, str]:
        """What it is told next."""
        return dict(line.split("=", 1) for line in self._sock.recv(4096).decode().split("\n"))

    def until(self, variable: str) -> dict[str, str]:
        """What it is told, when that has such a variable: what comes before it is passed over."""
        while variable not in (heard := self.next()):
            pass
        return heard


@contextmanager
def hearing(path: Path | None = None) -> Iterator[Systemd]:
    """One that hears at this path, or in the abstract namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(patient(300))
        sock.bind(str(path) if path else "")  # "": any name in the abstract namespace
        name = sock.getsockname()
        yield Systemd(str(path) if path else "@" + name[1:].decode(), sock)


def given(fd: int, command: list[str], count: str = "1") -> list[str]:
    """The command, with this descriptor as systemd would give it; for a Popen that passes it on."""
    return [sys.executable, "-c", STARTER, str(fd), count, *command]


def interpreter(directory: Path, fd: int) -> str:
    """A program that is Python, but that what it executes is given this descriptor as systemd would."""
    file = directory / "python"
    file.write_text(f'#!/bin/sh\nexec {shlex.join(given(fd, [sys.executable]))} "$@"\n')
    file.chmod(0o755)
    return str(file)
