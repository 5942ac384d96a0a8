"""How much a peer may send before it was taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from h2.windows import WindowManager

from api.rpc.codec import MAX_MESSAGE

STREAM_WINDOW: Final = MAX_MESSAGE + 64 * 1024
"""A whole message always fits, so a reader that takes whole messages cannot deadlock its own window."""
CONNECTION_WINDOW: Final = 16 * 1024 * 1024


FEW: Final = 16
"""Streams of a connection up to which the windows of those that are taken from grow."""


@dataclass(frozen=True, slots=True)
class Windows:
    """How much the peer may send before it was taken, in bytes.

    Attributes:
        stream: of each stream.
        connection: of all together, beside the 65,535 that every connection begins with (RFC 9113, 6.9.2).
        widest: of a stream that is taken from, as long as the connection has few.
    """

    stream: int
    connection: int
    widest: int = 0


class Window(WindowManager):  # type: ignore[misc] # h2 3.2 has no types
    """A stream's, or the connection's, as h2 keeps it."""

    max_window_size: int
    current_window_size: int
    _bytes_processed: int

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._taken = 0  # since it was made wider

    def process_bytes(self, size: int) -> int:
        """As h2's: so much was taken; by how much the window is to be opened."""
        self._taken += size
        return super().process_bytes(size) or 0

    def may_wait(self, size: int) -> bool:
        """So much more was taken, and h2 would not open the window for it yet: it is not shut, and less than half of it
        is owed."""
        return self.current_window_size > 0 and self._bytes_processed + size < self.max_window_size // 2

    def owe(self, size: int) -> None:
        """:meth:`process_bytes`, of what :meth:`may_wait`."""
        self._taken += size
        self._bytes_processed += size

    def give_back_rest(self) -> int:
        """What was taken, and h2 would not give back yet for being little, when the window is shut: it is given back.
        The peer may have only the rest of a message for it, of which the beginning is here, and cannot be taken."""
        rest = self._bytes_processed if not self.current_window_size else 0
        if rest:
            self._bytes_processed = 0
            self.window_opened(rest)
        return rest

    def widen(self, widest: int) -> int:
        """Twice as wide, as often as its whole width was taken, up to that; by how much it is to be opened."""
        more = min(self.max_window_size, widest - self.max_window_size)
        if more <= 0 or self._taken < self.max_window_size:
            return 0
        self._taken = 0
        self.max_window_size += more
        self.current_window_size += more
        return more


USUAL: Final = Windows(STREAM_WINDOW, CONNECTION_WINDOW)
SEPARATE: Final = Windows(64 * 1024, 2**31 - 1 - 65_535, widest=512 * 1024)
"""For streams of one connection whose takers have nothing to do with each other: those that a broker hands on, each to
a client of its own. One that takes nothing holds little (a stream's window), and holds up no other, since the window of
the connection is never shut. What it costs: only the number of streams bounds what all of them together may hold, and a
message that does not fit into a window comes in parts, with a round trip between them. A peer of ours sends none that
is larger than a window has room for, as long as it asks first (:meth:`api.rpc.call_stream.CallStream.writable`)."""
