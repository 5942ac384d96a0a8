"""TCP and TLS to a server, and in words what went wrong."""

from __future__ import annotations

import os
import socket
import ssl
from typing import Final

import trio

from api.errors import RpcError, UnauthenticatedError, UnavailableError
from api.rpc.stream import RECEIVE, ByteTransport, TLSStream

RECEIVE_SIZE: Final = RECEIVE


async def connect(host: str, port: int, context: ssl.SSLContext, timeout: float, name: str) -> ByteTransport:
    """Connect to a jobd.

    Args:
        timeout: seconds, for TCP and TLS together.
        name: whom its certificate has to name.

    Raises:
        UnavailableError: nobody answers there in time, or it is not a server of this kind.
        UnauthenticatedError: one side refused the other's certificate.
    """
    where = f"{host}:{port}"
    with trio.move_on_after(timeout):
        try:
            tcp = await trio.open_tcp_stream(host, port)
        except OSError as exc:
            raise UnavailableError(f"nobody answers at {where}: {reason_of(exc)}; is jobd running there?") from exc
        sock = detached(tcp)
        try:
            stream = await TLSStream.handshake(
                sock, context, server_side=False, server_hostname=name, receive_size=RECEIVE_SIZE
            )
        except (ssl.SSLError, OSError) as exc:
            raise handshake_error(where, exc) from exc
        if stream.alpn_protocol != "h2":
            await stream.aclose()
            raise UnavailableError(f"the server at {where} does not speak HTTP/2; is it a jobd?")
        return stream
    raise UnavailableError(f"no answer from {where} within {timeout:g} s")


def detached(tcp: trio.SocketStream) -> socket.socket:
    """The socket of a stream, which is then the caller's; what is written leaves it at once."""
    sock = socket.socket(fileno=tcp.socket.detach())
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def reason_of(exc: OSError) -> str:
    """Why there is no connection, as the system says it; one reason for each address that was tried."""
    errors = exc.__cause__.exceptions if isinstance(exc.__cause__, BaseExceptionGroup) else [exc]
    return "; ".join(sorted({_without_address(each) for each in errors}))


def _without_address(exc: BaseException) -> str:
    """What the system says (trio puts the address in front of it)."""
    errno = exc.errno if isinstance(exc, OSError) else None
    return os.strerror(errno) if errno and errno > 0 else str(exc)


def handshake_error(where: str, exc: Exception) -> RpcError:
    """What went wrong in a TLS handshake, or right after it, in words."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return UnauthenticatedError(
            f"the certificate of the server at {where} was refused: {exc.verify_message}; "
            "check --ca, and that the certificate was made for this host name"
        )
    alert = alert_of(exc)
    if alert in _CERTIFICATE_ALERTS:
        return UnauthenticatedError(
            f"the server at {where} refused this client's certificate: {_CERTIFICATE_ALERTS[alert]}"
        )
    if isinstance(exc, ssl.SSLEOFError) or not isinstance(exc, ssl.SSLError):
        return UnavailableError(f"the connection to {where} was closed during the TLS handshake")
    return UnavailableError(f"the server at {where} does not speak TLS 1.3 as this client does; is it a jobd?")


def alert_of(exc: BaseException | None) -> str:
    """The name of the TLS alert that the peer sent, "" when it sent none."""
    # An SSLError that was not made by OpenSSL has no reason (and no such attribute).
    _, alert, name = (getattr(exc, "reason", None) or "").partition("_ALERT_")
    return name if alert else ""


_CERTIFICATE_ALERTS: Final = {
    "CERTIFICATE_REQUIRED": "it asks for one; give --cert and --key",
    "CERTIFICATE_EXPIRED": "it has expired; have a new one signed",
    "CERTIFICATE_REVOKED": "it was revoked",
    "CERTIFICATE_UNKNOWN": "it was not accepted; check its profile and validity",
    "UNKNOWN_CA": "it is not signed by the CA that the server trusts",
    "UNSUPPORTED_CERTIFICATE": "it was not made for a client; have one signed with the client profile",
    "BAD_CERTIFICATE": "it was not accepted; check its profile and validity",
    "ACCESS_DENIED": "it gives no access",
}
