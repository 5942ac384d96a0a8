"""Binds what it is told to and nothing else; gives each connection its own task, handshake included.

A client that is silent, slow or rude costs its own task for at most the handshake timeout. When all
connections are taken, new ones wait in the kernel's backlog.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog
import trio

from api.errors import ConfigError
from api.rpc.stream import TLSStream

log = structlog.get_logger(__name__)

BACKLOG: Final = 512
RECEIVE_SIZE: Final = 32 * 1024
"""Requests are small; what an idle connection holds on to should be too."""
SEND_BUFFER: Final = 512 * 1024
"""The kernel would otherwise keep 3 to 4 MiB for a reader that has stopped."""
_OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class Limits:
    """What the edge allows.

    Attributes:
        connections: open at once.
        handshake: seconds from accept until TLS is done.
        handshakes: that may be going on at once. One more takes the place of the oldest: whoever has no certificate
            can keep nobody out by being slow.
    """

    connections: int = 1024
    handshake: float = 10.0
    handshakes: int = 128


def resolve(host: str, port: int) -> list[tuple[int, int, int, str, Any]]:
    """What this address can be, the best first: as getaddrinfo(3) gives it. Blocks.

    Raises:
        ConfigError: the host is not known.
    """
    try:
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))
    except OSError as exc:
        raise ConfigError(f"cannot listen on {host}:{port}: {exc.strerror}; check the host name") from exc


def bind(host: str, port: int, flag: str = "--listen") -> socket.socket:
    """A listening socket on exactly this address (port 0: any free port), which stands in this flag.

    Raises:
        ConfigError: the address is not this machine's, is in use, or is not allowed.
    """
    family, kind, proto, _, address = resolve(host, port)[0]
    try:
        sock = socket.socket(family, kind, proto)
    except OSError as exc:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {exc.strerror}; choose another address with {flag}"
        ) from exc
    try:
        sock.setblocking(False)
        # Not SO_REUSEPORT: a second daemon on the same port must fail, not share the traffic.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        hint = "is another jobd running?" if exc.errno == errno.EADDRINUSE else f"choose another address with {flag}"
        raise ConfigError(f"cannot listen on {host}:{port}: {exc.strerror}; {hint}") from exc
    return sock


def bind_or_take(host: str, port: int, kept: int | None) -> socket.socket:
    """The listening socket that a server before this one had, if it is for this address; else a new one.

    Connections that came in between wait in the kept one.

    Raises:
        ConfigError: as :func:`bind`.
    """
    if kept is not None:
        addresses = {info[4][0] for info in resolve(host, port)}
        sock = socket.socket(fileno=kept)
        if _listens(sock):
            bound_host, bound_port = sock.getsockname()[:2]
            if bound_host in addresses and port in (0, bound_port):
                return sock
        sock.close()
    return bind(host, port)


def take(given: int) -> socket.socket:
    """The listening socket that systemd, or another supervisor, has made; closed if it is not one.

    Raises:
        ConfigError: it is something else.
    """
    sock = socket.socket(fileno=given)
    if not _listens(sock):
        sock.close()
        raise ConfigError(
            "the socket that jobd was given (LISTEN_FDS) is not one that listens to TCP; "
            "a unit of systemd's needs ListenStream=[ADDRESS:]PORT, and Accept=no"
        )
    return sock


def _listens(sock: socket.socket) -> bool:
    """It is a socket that listens to TCP; it never waits, then."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        return False
    sock.setblocking(False)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1


async def serve(
    listener: socket.socket,
    context: Callable[[], ssl.SSLContext],
    limits: Limits,
    handle: Callable[[TLSStream], Awaitable[None]],
    *,
    draining: trio.Event,
    refused: Callable[[], None] = lambda: None,
) -> None:
    """Accept connections and run ``handle`` for each, until ``draining`` is set and all have ended.

    Args:
        context: asked anew for every connection, so that certificates can be changed while running.
        refused: told of each that was closed before it was handed on.
    """
    slots = trio.CapacityLimiter(limits.connections)
    handshakes = _Handshakes(limits)
    async with trio.open_nursery() as nursery:

        async def connection(sock: socket.socket) -> None:
            try:
                stream = await _shaken(sock, context(), handshakes)
                if stream is None:
                    refused()
                else:
                    await handle(stream)
            except Exception as exc:  # the border: no bug in one connection may end the others
                log.error("a connection failed", exc_info=exc)
            finally:
                slots.release_on_behalf_of(sock)

        with trio.CancelScope() as accepting:
            nursery.start_soon(_cancel_when, draining, accepting)
            while True:
                sock = await _accept(listener)
                try:
                    await slots.acquire_on_behalf_of(sock)
                except BaseException:  # cancelled above all: no task has the connection yet
                    sock.close()
                    raise
                nursery.start_soon(connection, sock)


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _accept(listener: socket.socket) -> socket.socket:
    while True:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            await trio.lowlevel.wait_readable(listener)
        except OSError as exc:
            # accept(2): errors of the connection that was about to come are to be taken like EAGAIN.
            if exc.errno in _OUT_OF_DESCRIPTORS:
                log.warning("cannot accept a connection", error=exc.strerror, next_try_in_seconds=0.1)
                await trio.sleep(0.1)
        else:
            await trio.lowlevel.checkpoint()
            return sock


class _Handshakes:
    """The handshakes that are going on, the oldest first."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._scopes: dict[trio.CancelScope, None] = {}

    def begin(self) -> trio.CancelScope:
        """The scope of a handshake: cancelled when its time is up, or when it is the oldest of too many."""
        scope = trio.move_on_after(self._limits.handshake)
        self._scopes[scope] = None
        if len(self._scopes) > self._limits.handshakes:
            oldest = next(iter(self._scopes))
            self.end(oldest)
            oldest.cancel()
        return scope

    def end(self, scope: trio.CancelScope) -> None:
        """It is over, however it went."""
        self._scopes.pop(scope, None)


async def _shaken(sock: socket.socket, context: ssl.SSLContext, handshakes: _Handshakes) -> TLSStream | None:
    """The connection, after its handshake; None, and it is closed, if that came to nothing."""
    stream: TLSStream | None = None
    with handshakes.begin() as scope:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            stream = await TLSStream.handshake(sock, context, server_side=True, receive_size=RECEIVE_SIZE)
        except (ssl.SSLError, OSError) as exc:
            log.info("handshake refused", error=_reason(exc))
            return None
        finally:
            handshakes.end(scope)
    if stream is None:
        sock.close()
        log.info("handshake refused", error="not done in time, or by its turn among many")
        return None
    if stream.alpn_protocol != "h2":
        log.info("connection refused", peer=stream.peer, error="the client did not offer HTTP/2 (ALPN h2)")
        await stream.aclose()
        return None
    return stream


def _reason(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"client certificate refused: {exc.verify_message}"
    if isinstance(exc, ssl.SSLError):
        # An SSLError that was not made by OpenSSL has no reason (and no such attribute).
        return (getattr(exc, "reason", None) or str(exc)).replace("_", " ").lower()
    return (exc.strerror if isinstance(exc, OSError) else None) or "connection broke"
