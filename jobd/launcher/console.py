"""What launcher and front tell the operator: lines on stderr, on which nothing depends. Standard library only."""

from __future__ import annotations

import contextlib
import os
import select
import sys


def say(text: str) -> None:
    """Tell the operator something, in a line, if anybody listens."""
    with contextlib.suppress(
        OSError, ValueError, AttributeError
    ):  # it was closed when we began: there is no sys.stderr
        poll = select.poll()
        poll.register(sys.stderr.fileno(), select.POLLOUT)
        if poll.poll(0):
            print(f"jobd: {text}", file=sys.stderr, flush=True)


def quieten() -> None:
    """Say no more: whoever waits for the end of what this process may write (a pipe's reader) is to have it."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
