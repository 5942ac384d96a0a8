"""GET /metrics, for a collector on this machine: no TLS, no certificates, one request a connection.

Everybody on the machine can come here, jobs too. So a connection has little time and little room, there are few at a
time, and one more takes the place of the oldest: nobody is kept out by somebody who says nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import structlog
import trio

from api.errors import ConfigError
from jobd.metrics.exposition import CONTENT_TYPE
from jobd.transport.listener import bind

log = structlog.get_logger(__name__)

CONNECTIONS: Final = 16
TIME: Final = 5.0
"""Seconds for a request and its answer."""
HEAD: Final = 8 * 1024
"""Bytes of a request."""
Text = Callable[[], Awaitable[bytes]]


def resolve_metrics(host: str, port: int, *, anywhere: bool) -> str:
    """The host's address. Blocks.

    Args:
        anywhere: also one that other machines can reach.

    Raises:
        ConfigError: the host is not known, or others can reach it.
    """
    try:
        address = str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as exc:
        raise ConfigError(f"--metrics {host}:{port}: {exc.strerror}; check the host name") from exc
    if not anywhere and not ipaddress.ip_address(address).is_loopback:
        raise ConfigError(
            f"--metrics {host}:{port}: others can reach that address, and metrics have neither TLS nor certificates; "
            "take 127.0.0.1, or say --metrics-anywhere"
        )
    return address


def bind_metrics(host: str, port: int, *, anywhere: bool) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: as :func:`resolve_metrics`, or it cannot be had.
    """
    return bind(resolve_metrics(host, port, anywhere=anywhere), port, "--metrics")


async def serve_metrics(listener: socket.socket, text: Text) -> None:
    """Answer until cancelled."""
    handler = partial(_answer, text, {})
    await trio.serve_listeners(handler, [trio.SocketListener(trio.socket.from_stdlib_socket(listener))])


async def _answer(text: Text, open_: dict[trio.CancelScope, None], stream: trio.SocketStream) -> None:
    scope = trio.move_on_after(TIME)
    open_[scope] = None
    if len(open_) > CONNECTIONS:
        oldest = next(iter(open_))
        del open_[oldest]
        oldest.cancel()
    try:
        async with stream:
            with scope:
                head = await _head(stream)
                if head:
                    await stream.send_all(await _response(head, text))
                    await stream.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # whoever asked is gone
    except Exception as exc:  # the border: no bug here may end the server
        log.error("metrics could not be told", exc_info=exc)
    finally:
        open_.pop(scope, None)


async def _head(stream: trio.SocketStream) -> bytes:
    """The request up to its empty line, or as much of it as there may be; b"" when there is none."""
    head = bytearray()
    while b"\r\n\r\n" not in head and len(head) <= HEAD:
        data = await stream.receive_some(HEAD)
        if not data:
            return b""
        head += data
    return bytes(head)


async def _response(head: bytes, text: Text) -> bytes:
    method, _, rest = head.split(b"\r\n", 1)[0].partition(b" ")
    target, _, version = rest.partition(b" ")
    if len(head) > HEAD and b"\r\n\r\n" not in head[: HEAD + 1]:
        return _message("431 Request Header Fields Too Large")
    if not version.startswith(b"HTTP/1."):
        return _message("400 Bad Request")
    if target.partition(b"?")[0] != b"/metrics":
        return _message("404 Not Found")
    if method != b"GET":
        return _message("405 Method Not Allowed", "Allow: GET\r\n")
    return _message("200 OK", f"Content-Type: {CONTENT_TYPE}\r\n", await text())


def _message(status: str, fields: str = "", body: bytes = b"") -> bytes:
    head = f"HTTP/1.1 {status}\r\n{fields}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode("ascii") + body
