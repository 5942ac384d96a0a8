"""A connection to one member of etcd: TCP, TLS, and a sign that HTTP/2 is spoken there."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from api.errors import RpcError
from api.rpc.channel import Channel, Metadata, channel_over
from api.rpc.connect import detached, handshake_error, reason_of
from api.rpc.stream import RECEIVE, ByteTransport, TLSStream
from jobd.pools.etcd.endpoints import Endpoint
from jobd.pools.etcd.errors import EtcdCertificateError, EtcdError, NotEtcdError, StoreUnavailableError, from_rpc
from jobd.pools.etcd.plain import PlainStream

KEEPALIVE: Final = 6.0
"""Seconds between PINGs while a call is open, and until an unanswered one means that the member is gone. etcd ends
connections that ask more often than every five (its --grpc-keepalive-min-time), or without a call."""
WITH_LEADER: Final[Metadata] = (("hasleader", "true"),)
"""Each call says this: a member that knows no leader then says so at once, where it would wait, or (a watch) stay
silent for ever."""


@asynccontextmanager
async def connect(endpoint: Endpoint, tls: ssl.SSLContext | None, timeout: float) -> AsyncIterator[Channel]:
    """Connect to a member; the block is the life of the connection.

    Args:
        tls: None is plaintext.
        timeout: seconds for TCP, TLS and the first sign of life together.

    Raises:
        EtcdError: nobody answers there in time, something else is spoken, or a certificate was refused.
    """
    begun = trio.current_time()
    transport = await _transport(endpoint, tls, timeout)
    async with channel_over(transport, str(endpoint), WITH_LEADER, keepalive=KEEPALIVE, when_idle=False) as channel:
        await _greet(channel, endpoint, max(begun + timeout - trio.current_time(), 0))
        yield channel


async def _transport(endpoint: Endpoint, tls: ssl.SSLContext | None, timeout: float) -> ByteTransport:
    with trio.move_on_after(timeout):
        try:
            tcp = await trio.open_tcp_stream(endpoint.host, endpoint.port)
        except OSError as exc:
            raise StoreUnavailableError(f"nobody answers at {endpoint}: {reason_of(exc)}") from exc
        sock = detached(tcp)
        if tls is None:
            return PlainStream(sock, str(endpoint))
        try:
            stream = await TLSStream.handshake(
                sock, tls, server_side=False, server_hostname=endpoint.host, receive_size=RECEIVE
            )
        except (ssl.SSLError, OSError) as exc:
            raise _refused(endpoint, exc) from exc
        if stream.alpn_protocol != "h2":
            await stream.aclose()
            raise NotEtcdError(f"the server at {endpoint} does not speak HTTP/2: is it etcd's client port?")
        return stream
    raise _silent(endpoint, timeout)


def _refused(endpoint: Endpoint, exc: Exception) -> EtcdError:
    """What went wrong in a TLS handshake."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return EtcdCertificateError(
            f"the certificate of the etcd at {endpoint} was refused: {exc.verify_message}; "
            "check --pool-ca, and that the certificate was made for this host name"
        )
    if not isinstance(exc, ssl.SSLError) or isinstance(exc, ssl.SSLEOFError):
        return StoreUnavailableError(f"the connection to {endpoint} was closed during the TLS handshake")
    error = from_rpc(handshake_error(str(endpoint), exc), str(endpoint), writes=False)
    if isinstance(error, EtcdCertificateError):
        return error
    return NotEtcdError(f"the server at {endpoint} does not speak TLS as etcd does: is it its client port, with TLS?")


async def _greet(channel: Channel, endpoint: Endpoint, timeout: float) -> None:
    """With TLS 1.3, this is also when we learn whether our certificate is taken."""
    try:
        await channel.greet(timeout)
    except trio.TooSlowError:
        raise _silent(endpoint, timeout) from None
    except RpcError as exc:
        error = from_rpc(exc, str(endpoint), writes=False)
        if channel.received and isinstance(error, StoreUnavailableError):
            error = NotEtcdError(f"the server at {endpoint} does not speak HTTP/2 as etcd does")
        raise error from exc


def _silent(endpoint: Endpoint, timeout: float) -> EtcdError:
    return StoreUnavailableError(f"the etcd at {endpoint} did not answer in time")
