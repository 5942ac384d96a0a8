"""What a client can send without end that is no call; with stream 1 open, and 3 ended."""

from __future__ import annotations

import struct
from collections.abc import Callable

from api.rpc import frames
from tests.support.wire import CALL, RawClient

Flood = Callable[[RawClient, int], bytes]
FLOODS: dict[str, Flood] = {
    "PING": lambda raw, n: raw.ping(),
    "PING answers": lambda raw, n: raw.ping(ack=True),
    "SETTINGS": lambda raw, n: raw.settings({4: 65_535 + n % 2}),
    "SETTINGS that nobody knows": lambda raw, n: raw.any_frame(frames.SETTINGS, 0, 0, unknown_settings(n)),
    "SETTINGS answers": lambda raw, n: raw.settings({}, ack=True),
    "WINDOW_UPDATE of the connection": lambda raw, n: raw.window(0, 1),
    "WINDOW_UPDATE of a stream": lambda raw, n: raw.window(1, 1),
    "WINDOW_UPDATE of no stream": lambda raw, n: raw.window(3, 1),
    "PRIORITY": lambda raw, n: raw.priority(2 * n + 1, 0),
    "empty DATA": lambda raw, n: raw.data(1, b""),
    "empty padded DATA": lambda raw, n: raw.data(1, b"", padding=3),
    "DATA of a call that ended": lambda raw, n: raw.data(3, b""),
    "RST_STREAM of a call that ended": lambda raw, n: raw.reset(3),
    "frames that nobody knows": lambda raw, n: raw.any_frame(0x77, 0, 0, b"x"),
    "rapid reset": lambda raw, n: raw.headers(2 * n + 5) + raw.reset(2 * n + 5),
    "resets that it makes us send: DATA behind the end": lambda raw, n: (
        raw.headers(2 * n + 5, end=True) + raw.data(2 * n + 5, b"x")
    ),
    "resets that it makes us send: HEADERS behind the end": lambda raw, n: (
        raw.headers(2 * n + 5, end=True) + raw.headers(2 * n + 5)
    ),
    "resets that it makes us send: a window that overflows": lambda raw, n: (
        raw.headers(2 * n + 5) + raw.window(2 * n + 5, 2**31 - 1)
    ),
    "resets that it makes us send: malformed trailers": lambda raw, n: (
        raw.headers(2 * n + 5) + raw.headers(2 * n + 5, (("x", "\n"),), end=True)
    ),
    "requests that are no calls": lambda raw, n: raw.headers(2 * n + 5, ((":method", "GET"), *CALL[1:]), end=True),
    "rapid reset of what is malformed": lambda raw, n: raw.headers(2 * n + 5, (*CALL, ("x", "\n"))),
}


def unknown_settings(number: int) -> bytes:
    first = 100 + number % 200 * 300
    return b"".join(struct.pack(">HI", code, 1) for code in range(first, first + 300))
