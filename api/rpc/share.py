"""What all streams of a server may hold ready for their peers, together."""

from __future__ import annotations

from typing import Final

TOTAL: Final = 16 * 1024 * 1024
"""Bytes. A few streams may have large messages, which cost less for each byte; a thousand that stall stay small."""


class Share:
    """One for a server (:class:`api.rpc.statistics.Connections` has it), or for a client's connection.

    Attributes:
        calls: that are open, on all connections.
    """

    def __init__(self) -> None:
        self.calls = 0

    @property
    def of_each(self) -> int:
        """Bytes for each call."""
        return TOTAL // max(self.calls, 1)
