"""Trying again, for a while."""

from __future__ import annotations

import random
from typing import Final

import trio

from api.errors import ResourceExhaustedError, RpcError, UnavailableError

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0


def may_retry(error: RpcError) -> bool:
    """The call that ended so may be made again: the server cannot be reached, or has said when it would take it."""
    if isinstance(error, ResourceExhaustedError):
        return error.retry_after is not None
    return isinstance(error, UnavailableError)


class Retry:
    """Growing, jittered pauses for a limited time."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self.reset()

    def reset(self) -> None:
        """Something succeeded: the time that is left is the whole limit again."""
        self._until = -1.0
        self._pause = FIRST_PAUSE

    async def pause(self, at_least: float | None = None) -> bool:
        """Wait a little. False, at once, when the time is up, or would be.

        Args:
            at_least: seconds that the server has asked for (:attr:`api.errors.RpcError.retry_after`).
        """
        asked = at_least or 0.0
        now = trio.current_time()
        if self._until < 0:
            self._until = now + self._limit
        if now + asked >= self._until:
            return False
        own = self._pause * random.uniform(0.5, 1.0)  # noqa: S311 # jitter, not a secret
        await trio.sleep(min(asked + own, self._until - now))
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        return True
