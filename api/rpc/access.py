"""Whether the peer of a connection is let in: said when it comes, and perhaps taken back while it is here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from api.errors import UnauthenticatedError

LINGER: Final = 5.0
"""Seconds that a connection has whose peer is not let in: whoever connects does it to call, and is to be told why."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a peer is not let in.

    Attributes:
        reason: for programs (``google.rpc.ErrorInfo.reason``).
        message: for the peer.
    """

    reason: str
    message: str

    def error(self) -> UnauthenticatedError:
        """A new error that says so."""
        return UnauthenticatedError(self.message, reason=self.reason)


class Access:
    """That of one connection's peer.

    Attributes:
        refusal: why it has none, once that is so.
        linger: seconds that the connection has from then on.
        on_refused: called when it is taken back, and when it is to linger no longer.
    """

    __slots__ = ("linger", "on_refused", "refusal")

    def __init__(self, refusal: Refusal | None = None) -> None:
        self.refusal = refusal
        self.linger = LINGER
        self.on_refused: Callable[[], None] | None = None

    def refuse(self, refusal: Refusal) -> None:
        """Take it back, for good: open calls end with this, and later ones are answered with it. Never waits."""
        if self.refusal is None:
            self.refusal = refusal
            if self.on_refused:
                self.on_refused()

    def dismiss(self) -> None:
        """The connection of a peer that was refused ends now: others need its place. Never waits."""
        self.linger = 0.0
        if self.refusal and self.on_refused:
            self.on_refused()
