"""How much a peer may send before it was taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from h2.windows import WindowManager

from api.rpc.codec import MAX_MESSAGE

STREAM_WINDOW: Final = MAX_MESSAGE + 64 * 1024
"""A whole message always fits, so a reader that takes whole messages cannot deadlock its own window."""
CONNECTION_WINDOW: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Windows:
    """How much the peer may send before it was taken: in bytes, of each stream, and of all together."""

    stream: int
    connection: int


class Window(WindowManager):  # type: ignore[misc] # h2 3.2 has no types
    """A stream's, as h2 keeps it."""

    _bytes_processed: int

    def rest(self) -> int:
        """What was taken, and h2 would not give back yet for being little, when the window is shut: it is given back.
        The peer may have only the rest of a message for it, of which the beginning is here, and cannot be taken."""
        rest = self._bytes_processed if not self.current_window_size else 0
        if rest:
            self._bytes_processed = 0
            self.window_opened(rest)
        return rest


USUAL: Final = Windows(STREAM_WINDOW, CONNECTION_WINDOW)
SEPARATE: Final = Windows(256 * 1024, 2**31 - 1 - 65_535)
"""For streams whose takers have nothing to do with each other: one that takes nothing holds little, and holds up no
other, since the connection's window is never shut. A peer of ours sends no message that is larger than a window has
room for, as long as it asks first (:meth:`api.rpc.call_stream.CallStream.writable`)."""
