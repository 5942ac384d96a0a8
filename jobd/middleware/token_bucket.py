"""A rate, and who keeps to it."""

from __future__ import annotations

from typing import Final

BURST: Final = 1.0
"""Seconds whose tokens a bucket holds, if that is one at least."""
_EXACT: Final = 1e-9
"""Seconds that sums of fractions may be off by."""


class TokenBucket:
    """Tokens come at a rate, up to what the bucket holds. It is full at first.

    Attributes:
        full_at: when it is full again, if none is taken until then. From then on it is as a new one.
    """

    __slots__ = ("full_at",)

    def __init__(self, now: float) -> None:
        self.full_at = now

    def take(self, now: float, rate: float) -> float:
        """Take a token.

        Args:
            now: in seconds, of a clock that does not go back.
            rate: tokens a second.

        Returns:
            0; or, when there was none to take, the seconds until there is one.
        """
        token = 1 / rate
        full_at = max(self.full_at, now) + token
        wait = full_at - now - max(BURST, token)
        if wait > _EXACT:
            return wait
        self.full_at = full_at
        return 0.0
