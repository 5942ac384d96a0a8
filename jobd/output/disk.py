"""Whether the loop itself may write to the disk that all logs are on, or leaves that to a thread."""

from __future__ import annotations

import resource
import time
from typing import Final

SMALL: Final = 16 * 1024
"""Bytes that the loop records at most: copying them into the page cache takes no longer than asking a thread to would.
More, and whatever waits for a disk (new files, their end), is a thread's."""
STALL: Final = 0.005
"""Seconds of waiting (not of others having the processor) that say that the page cache has no room until the disk has
written: write(2) waits for that, too."""
WARY: Final = 1.0
"""For so many seconds the loop does not go near it then."""


Watch = tuple[int, float]
"""When something began: how often this thread had waited, and the time."""


class Disk:
    """One for all logs: what one of them has waited for, the next one would wait for, too."""

    def __init__(self) -> None:
        self.wary_until = 0.0

    @property
    def quick(self) -> bool:
        """Nobody had to wait for it lately."""
        return time.monotonic() >= self.wary_until

    def watch(self) -> Watch:
        """Something is about to be written in the loop."""
        return _waits(), time.monotonic()

    def written(self, watch: Watch) -> None:
        """It was. (No context manager: for each line that a job writes.)"""
        waits, begun = watch
        now = time.monotonic()
        if now - begun > STALL and _waits() > waits:
            self.wary_until = now + WARY


def _waits() -> int:
    """How often this thread has waited for something (getrusage(2): voluntary context switches)."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
