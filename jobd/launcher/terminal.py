"""Pseudo-terminals (pty(7)): a near side that is ours, a far side that is the job's. Standard library only."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from typing import Final

IUTF8: Final = 0o40000
"""Erase whole characters, not bytes (termios(3)); jobs have a UTF-8 locale. Python does not name it."""


def open_terminal(rows: int, columns: int) -> tuple[int, int]:
    """A new terminal, as the kernel makes them (canonical, with echo), but its owner's alone: near and far side.

    Raises:
        OSError: there are no more of them, or of descriptors.
    """
    near, far = os.openpty()
    try:
        os.fchmod(far, 0o600)  # most machines let its group write to it, and the group is to be the job's
        modes = termios.tcgetattr(far)
        modes[0] |= IUTF8
        termios.tcsetattr(far, termios.TCSANOW, modes)
        set_size(near, rows, columns)
        os.set_blocking(near, False)
    except (OSError, termios.error) as exc:
        os.close(near)
        os.close(far)
        raise OSError(*exc.args) from exc
    return near, far


def set_size(terminal: int, rows: int, columns: int) -> None:
    """Set its size; when that changes, its foreground processes get SIGWINCH."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def take_control(far: int) -> None:
    """Make it the controlling terminal of the session that this process leads."""
    fcntl.ioctl(far, termios.TIOCSCTTY, 0)
