"""Signals as bytes that a loop can wait for. Standard library only."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterable


def read_from_now_on(signals: Iterable[int]) -> tuple[socket.socket, socket.socket]:
    """A socket from which the numbers of these signals can be read, and the other end of it, to which they are written:
    that is for ``signal.set_wakeup_fd``, and is in force already."""
    woken, waking = socket.socketpair()
    for sock in (woken, waking):
        sock.setblocking(False)
    for signum in signals:
        signal.signal(signum, lambda *_: None)
    signal.set_wakeup_fd(waking.fileno())
    return woken, waking
