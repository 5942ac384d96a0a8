"""Trying again, for a while."""

from __future__ import annotations

import random
from typing import Final

import trio

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0


class Retry:
    """Growing, jittered pauses for a limited time."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self.reset()

    def reset(self) -> None:
        """Something succeeded: the time that is left is the whole limit again."""
        self._until = -1.0
        self._pause = FIRST_PAUSE

    async def pause(self) -> bool:
        """Wait a little. False, at once, when the time is up."""
        now = trio.current_time()
        if self._until < 0:
            self._until = now + self._limit
        if now >= self._until:
            return False
        await trio.sleep(min(self._pause * random.uniform(0.5, 1.0), self._until - now))  # noqa: S311 # jitter, not a secret
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        return True
