"""The socket in the state directory by which a launcher is found: by the next ``jobd``, and by ``jobd upgrade``.

It lies in a directory that only its owner can enter.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from api.errors import JobdError


class ServedElsewhereError(JobdError):
    """The launcher that has the state directory serves the front from now on: this server is not needed."""


NAME: Final = "launcher.sock"
BACKLOG: Final = 16


def bind(directory: Path) -> socket.socket:
    """Make the socket, in place of one that was left. Only for the holder of the directory's lock.

    Whoever calls listen() on it is whom those who connect see at the other end.

    Raises:
        OSError: the directory cannot be written.
    """
    (directory / NAME).unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _short(directory) as short:
            sock.bind(f"{short}/{NAME}")
        (directory / NAME).chmod(0o600)
    except OSError:
        sock.close()
        raise
    return sock


def is_there(directory: Path) -> bool:
    """Something lies where the socket should."""
    return (directory / NAME).is_socket()


def connect(directory: Path) -> socket.socket:
    """A connection to the launcher of this state directory.

    Raises:
        OSError: there is none, or it does not answer.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)  # a full backlog is an answer too
    try:
        with _short(directory) as short:
            sock.connect(f"{short}/{NAME}")
    except OSError:
        sock.close()
        raise
    return sock


@contextmanager
def _short(directory: Path) -> Iterator[str]:
    """A name for the directory that fits: the path of a Unix socket has at most 107 bytes (unix(7))."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)
