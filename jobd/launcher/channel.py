"""The launcher's end of a socket to somebody: the server, the front, or one who asks for an upgrade.

Standard library only.
"""

from __future__ import annotations

import collections
import selectors
import socket
from collections.abc import Callable

from jobd.launcher import protocol


class Channel:
    """Speaks without ever waiting: what the other side is too far behind to take is kept for later.

    Attributes:
        stalled: something is kept that the kernel refuses for a reason that no event tells the end of (too many
            descriptors are under way); :meth:`flush` tries again.
    """

    def __init__(
        self,
        sock: socket.socket,
        selector: selectors.BaseSelector,
        hear: Callable[[protocol.Message, list[int]], None],
        gone: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            hear: called with each message that comes.
            gone: called once, when the other side has ended.
        """
        sock.setblocking(False)
        sock.set_inheritable(False)
        self._sock = sock
        self._selector = selector
        self._hear = hear
        self._gone = gone
        self._unsent: collections.deque[tuple[protocol.Message, list[int]]] = collections.deque()
        self._open = True
        self.stalled = False
        selector.register(sock, selectors.EVENT_READ, self._ready)

    def fileno(self) -> int:
        return self._sock.fileno()

    def tell(self, message: protocol.Message, fds: list[int] | None = None) -> None:
        """Send a message, or keep it. The descriptors are the channel's to close."""
        self._unsent.append((message, fds or []))
        self.flush()

    @property
    def behind(self) -> int:
        """How many messages the other side has not taken."""
        return len(self._unsent)

    def drain(self) -> None:
        """Hear what the other side said before it ended."""
        if self._open:
            self._ready()

    def _ready(self) -> None:
        self.flush()
        try:
            while self._open and (heard := protocol.receive(self._sock)):
                self._hear(*heard)
        except BlockingIOError:
            return
        except ConnectionError:
            pass
        if self._open:
            self._stop_listening()
            self._gone()

    def flush(self) -> None:
        """Send what is kept, as far as it goes."""
        if not self._open:
            return
        self.stalled = False
        waiting = False
        try:
            while self._unsent:
                message, fds = self._unsent[0]
                protocol.send(self._sock, message, fds)
                self._unsent.popleft()
                protocol.close_all(fds)
        except BlockingIOError:
            waiting = True
        except ConnectionError:
            pass  # it is gone, and the reading side meets that too
        except OSError:
            self.stalled = True
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if waiting else 0)
        self._selector.modify(self._sock, events, self._ready)

    def other_side_is_there(self) -> bool:
        """Nothing shows that it has gone."""
        try:
            return self._sock.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def _stop_listening(self) -> None:
        if self._open:
            self._selector.unregister(self._sock)
            self._open = False

    def close(self) -> None:
        """Let go; what was not sent is not."""
        self._stop_listening()
        self._sock.close()
        while self._unsent:
            protocol.close_all(self._unsent.popleft()[1])
