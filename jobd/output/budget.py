"""How much output there may be on disk, of all jobs together."""

from __future__ import annotations

from typing import Final

import trio

UNLIMITED: Final = 2**63


class Budget:
    """One for a daemon. What jobs that have ended recorded is deleted to make room; what jobs that run record is not,
    so that it can take up all there is, and no more.

    Attributes:
        limit: bytes.
        live: bytes that jobs have recorded that have not ended.
        ended: bytes that those have recorded that have, as far as is known.
        taken, dropped: bytes that this process has recorded, and that it could not record.
    """

    def __init__(self, limit: int = UNLIMITED) -> None:
        self.limit = limit
        self.live = 0
        self.ended = 0
        self.taken = self.dropped = 0
        self._pressed = trio.Event()

    @property
    def full(self) -> bool:
        """No more can be recorded, whatever is deleted."""
        return self.live >= self.limit

    def has_room(self, more: int) -> bool:
        """It is not full with so many bytes more that it was not told of yet."""
        return self.live + more < self.limit

    def add(self, count: int) -> None:
        """A job that runs has recorded so much more."""
        self.live += count
        if self.ended and self.live + self.ended > self.limit:
            self._pressed.set()

    def end(self, count: int) -> None:
        """A job that had recorded so much has ended."""
        self.live -= count
        self.ended += count

    async def pressed(self) -> None:
        """Wait until something that has ended should be deleted to make room."""
        await self._pressed.wait()

    def settle(self, ended: int) -> None:
        """So much of jobs that have ended is there now."""
        self.ended = ended
        self._pressed = trio.Event()
