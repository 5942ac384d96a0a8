"""How much a peer may ask of a connection beside its calls.

Pings, settings, window updates, resets, priorities and empty frames cost their sender next to nothing and us some
work each. All of them draw on one account of the connection; what we send pays in, since a peer that is answered has
reason to speak, and so does time. Whoever overdraws it is sent away with ENHANCE_YOUR_CALM (RFC 9113, 10.5).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from h2.exceptions import DenialOfServiceError

from api.rpc import frames

CAPACITY: Final = 10_000.0
"""What the account holds at the beginning, and at most."""
PER_SECOND: Final = 200.0
FOR_SMALL: Final = 1
"""What a DATA frame pays in that we send, of less than BIG bytes. (Some clients send a PING behind each.)"""
FOR_BIG: Final = 4
BIG: Final = 1024

RESET: Final = 4
"""With the call that it ends it costs a task that is begun and cancelled; no less when we had to send it."""
NEW_SETTINGS: Final = 25
"""They can change the window of every stream."""


class Patience:
    """The account of one connection.

    Attributes:
        offences: streams that had to be reset or refused for what the peer did.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._level = CAPACITY
        self._since = clock()
        self.offences = 0

    @property
    def left(self) -> float:
        """What is in the account, not counting what time has paid in since it was last looked at."""
        return self._level

    def hear(self, kind: int, flags: int, length: int) -> None:
        """Take a frame's price out of the account.

        Raises:
            DenialOfServiceError: there is not enough in it.
        """
        self._level -= _price(kind, flags, length)
        if self._level < 0:
            now = self._clock()
            self._level = min(self._level + (now - self._since) * PER_SECOND, CAPACITY)
            self._since = now
            if self._level < 0:
                raise DenialOfServiceError("the peer sends more that is not part of a call than can be of use")

    def hear_one(self) -> None:
        """Take the price of one out of the account, as :meth:`hear` does for most frames.

        Raises:
            DenialOfServiceError: as :meth:`hear`.
        """
        self._level -= 1
        if self._level < 0:
            self._level += 1
            self.hear(frames.PING, 0, 0)

    def offend(self) -> None:
        """Take the price of a reset out of the account, since the peer made us send one, or answer what is no call.
        Whether there was so much in it is looked at when the next frame comes."""
        self.offences += 1
        self._level -= RESET

    def bear(self) -> None:
        """Take out a little for a frame of a stream that was reset: it may have been on its way, or not."""
        self._level -= 1

    def speak(self, length: int) -> None:
        """Pay in for a frame of a call that is sent, with so many bytes."""
        self._level = min(self._level + (FOR_BIG if length >= BIG else FOR_SMALL), CAPACITY)


def _price(kind: int, flags: int, length: int) -> int:
    if kind == frames.DATA:
        # Padding can be all there is of a frame; nobody who makes calls pads.
        return int(bool(flags & frames.PADDED) or not (length or flags & frames.END_STREAM))
    if kind == frames.RST_STREAM:
        return RESET
    if kind == frames.SETTINGS and not flags & frames.ACK:
        return NEW_SETTINGS + length // 6  # each setting has six bytes
    return 1
