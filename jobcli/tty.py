"""The terminal that jobcli runs in."""

from __future__ import annotations

import contextlib
import os
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

STDIN: Final = 0
SOME_SIZE: Final = (24, 80)
LARGEST: Final = 4096


def is_terminal() -> bool:
    """Stdin is one."""
    return os.isatty(STDIN)


def size() -> tuple[int, int]:
    """Its rows and columns."""
    try:
        columns, rows = os.get_terminal_size(STDIN)
    except OSError:
        return SOME_SIZE
    return (min(rows, LARGEST), min(columns, LARGEST)) if rows and columns else SOME_SIZE


class RawMode:
    """Every key is a byte for the job: none is a signal, is echoed, or waits for the end of its line."""

    def __init__(self) -> None:
        self._before = termios.tcgetattr(STDIN)

    def enter(self) -> None:
        """Enter it, again if need be: a shell that had us stopped may have changed it."""
        tty.setraw(STDIN, termios.TCSANOW)

    def leave(self) -> None:
        """Make it as it was. Never waits for the terminal."""
        with contextlib.suppress(termios.error, OSError):  # it has gone
            termios.tcsetattr(STDIN, termios.TCSANOW, self._before)


@contextmanager
def raw_mode() -> Iterator[RawMode]:
    """Raw mode for the block, however it is left."""
    mode = RawMode()
    try:
        mode.enter()
        yield mode
    finally:
        mode.leave()
