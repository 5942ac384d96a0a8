"""The launcher's end of the socket to one server. Standard library only."""

from __future__ import annotations

import collections
import os
import selectors
import socket
from collections.abc import Callable

from jobd.launcher import protocol


class Channel:
    """Speaks to a server without ever waiting for it: what it is too far behind to take is kept for later."""

    def __init__(
        self,
        sock: socket.socket,
        selector: selectors.BaseSelector,
        hear: Callable[[protocol.Message, list[int]], None],
    ) -> None:
        """
        Args:
            hear: called with each message that comes.
        """
        sock.setblocking(False)
        self._sock = sock
        self._selector = selector
        self._hear = hear
        self._unsent: collections.deque[tuple[protocol.Message, list[int]]] = collections.deque()
        self._open = True
        selector.register(sock, selectors.EVENT_READ, self._ready)

    def tell(self, message: protocol.Message, fds: list[int] | None = None) -> None:
        """Send a message, or keep it. The descriptors are the channel's to close."""
        self._unsent.append((message, fds or []))
        self._send()

    def _ready(self) -> None:
        self._send()
        try:
            while heard := protocol.receive(self._sock):
                self._hear(*heard)
        except BlockingIOError:
            return
        except ConnectionError:
            pass
        self._stop_listening()  # it is gone, or going: SIGCHLD says the rest

    def _send(self) -> None:
        if not self._open:
            return
        try:
            while self._unsent:
                message, fds = self._unsent[0]
                protocol.send(self._sock, message, fds)
                self._unsent.popleft()
                _close_all(fds)
        except OSError:
            pass  # BlockingIOError: later; anything else: it is gone, and the reading side meets that too
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        self._selector.modify(self._sock, events, self._ready)

    def _stop_listening(self) -> None:
        if self._open:
            self._selector.unregister(self._sock)
            self._open = False

    def close(self) -> None:
        """The server is gone."""
        self._stop_listening()
        self._sock.close()
        while self._unsent:
            _close_all(self._unsent.popleft()[1])


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
