"""Who gets in, and what those who do not are told. Whoever is refused costs only their own connection."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import trio
from structlog.typing import EventDict

from api.address import parse_address
from api.client import JobClient
from api.errors import CredentialsError, RpcError, UnauthenticatedError, UnavailableError
from api.identity import Role
from api.tls import ALPN
from jobd.transport.listener import Limits
from pki.authority import Authority
from tests.integration.conftest import Connect
from tests.support.daemon import running_daemon
from tests.support.patience import patient
from tests.support.pki import TestPki

SECONDS = patient(10)
"""No test here may take longer; a refusal is immediate."""


def other_context(pki: TestPki, certificate: str | None = None) -> ssl.SSLContext:
    """A client's context that trusts the server, made by hand: to leave out what ``api.tls`` insists on."""
    context = ssl.create_default_context(cafile=str(pki.ca))
    if certificate:
        context.load_cert_chain(pki.certificate(certificate), pki.key(certificate))
    return context


def refusals(logged: list[EventDict]) -> list[str]:
    """What was logged, but for what a daemon says of the machine when it starts."""
    return [entry["event"] for entry in logged if not entry["event"].startswith("jobs ")]


@asynccontextmanager
async def client_with(server: str, context: ssl.SSLContext) -> AsyncIterator[JobClient]:
    """A JobClient that uses this context."""
    async with trio.open_nursery() as nursery:
        yield JobClient(nursery, [parse_address(server)], context, 0)
        nursery.cancel_scope.cancel()


async def refusal(client: JobClient) -> RpcError:
    """The error that a first call ends with."""
    with trio.fail_after(SECONDS), pytest.raises(RpcError) as caught:
        await client.workers()
    return caught.value


async def assert_works(connect: Connect) -> None:
    """A good client can start a job and learn its end."""
    with trio.fail_after(SECONDS):
        async with connect() as client:
            job = await client.start(["true"])
            (ended,) = await client.wait(job.id)
    assert ended.exit_code == 0


async def all_bytes(stream: trio.SocketStream) -> bytes:
    """What the server sends until it ends the connection, whichever way it does."""
    received = bytearray()
    try:
        with trio.fail_after(SECONDS):
            while data := await stream.receive_some():
                received += data
    except trio.BrokenResourceError:
        pass
    return bytes(received)


# ---- certificates of clients


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("expired", "it has expired; have a new one signed"),
        ("stranger", "it is not signed by the CA that the server trusts"),
        ("server", "it was not made for a client; have one signed with the client profile"),
    ],
)
async def test_a_client_whose_certificate_is_not_good_is_told_why(
    connect: Connect, log_guard: list[EventDict], name: str, told: str
) -> None:
    """An expired, foreign or server's certificate is refused as UNAUTHENTICATED, with the reason and the remedy."""
    async with connect(name) as client:
        error = await refusal(client)
    assert isinstance(error, UnauthenticatedError)
    assert error.message.endswith(f"refused this client's certificate: {told}")
    assert refusals(log_guard) == ["handshake refused"]
    await assert_works(connect)


async def test_a_client_without_a_certificate_is_told_to_bring_one(
    pki: TestPki, server: str, connect: Connect, log_guard: list[EventDict]
) -> None:
    """Mutual TLS: no certificate, no connection."""
    context = other_context(pki)
    context.set_alpn_protocols(ALPN)
    async with client_with(server, context) as client:
        error = await refusal(client)
    assert isinstance(error, UnauthenticatedError)
    assert error.message.endswith("it asks for one; give --cert and --key")
    assert refusals(log_guard) == ["handshake refused"]
    await assert_works(connect)


@pytest.mark.parametrize("name", ["expired", "stranger", "server"])
async def test_the_reason_of_a_refusal_is_never_lost(connect: Connect, name: str) -> None:
    """With TLS 1.3 the alert races with the client's first bytes; the client says why it was refused every time."""
    errors = []
    for _ in range(20):
        async with connect(name) as client:
            errors.append(await refusal(client))
    assert {type(error) for error in errors} == {UnauthenticatedError}, [error.message for error in errors]


async def test_an_open_stream_begins_with_the_same_refusal(connect: Connect) -> None:
    """A stream is refused as a unary call is, not as a stream that was cut."""
    async with connect("stranger") as client:
        with trio.fail_after(SECONDS), pytest.raises(UnauthenticatedError, match="not signed by the CA"):
            async with client.stream("00000000-0000-4000-8000-000000000000") as output:
                await anext(output)


async def test_a_refusal_is_not_tried_again(connect: Connect) -> None:
    """A certificate does not get better by waiting: retry_for is for servers that cannot be reached."""
    with trio.fail_after(SECONDS):
        async with connect("expired", retry_for=1000) as client:
            assert isinstance(await refusal(client), UnauthenticatedError)


@pytest.mark.parametrize(("certificate", "key"), [("alice", "rita"), ("alice", "missing"), ("missing", "alice")])
async def test_credentials_that_cannot_be_used_are_refused_before_any_connection(
    pki: TestPki, certificate: str, key: str
) -> None:
    """A missing file, or a key that is another certificate's, is a CredentialsError that names the file."""
    with pytest.raises(CredentialsError) as caught:
        async with JobClient.connect("localhost:1", cert=pki.certificate(certificate), key=pki.key(key), ca=pki.ca):
            pytest.fail("the block must not be entered")
    named = pki.certificate(certificate) if certificate == "missing" else pki.key(key)
    assert str(named) in str(caught.value)


# ---- what is not TLS 1.3 with HTTP/2


async def test_tls_1_2_is_refused(pki: TestPki, server: str, connect: Connect) -> None:
    """A client with a good certificate that speaks no TLS newer than 1.2 is turned away in the handshake."""
    context = other_context(pki, "alice")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(ALPN)
    host, port = parse_address(server)
    stream = trio.SSLStream(await trio.open_tcp_stream(host, port), context, server_hostname=host)
    with trio.fail_after(SECONDS), pytest.raises(trio.BrokenResourceError) as caught:
        await stream.do_handshake()
    await trio.aclose_forcefully(stream)
    assert isinstance(caught.value.__cause__, ssl.SSLError)
    assert caught.value.__cause__.reason == "TLSV1_ALERT_PROTOCOL_VERSION"
    await assert_works(connect)


async def test_a_client_that_does_not_offer_http_2_is_refused(
    pki: TestPki, server: str, connect: Connect, log_guard: list[EventDict]
) -> None:
    """Without ALPN h2 there is no gRPC: the connection ends, and no byte is read from it."""
    async with client_with(server, other_context(pki, "alice")) as client:
        error = await refusal(client)
    assert isinstance(error, UnavailableError)
    assert "does not speak HTTP/2" in error.message
    await assert_works(connect)
    refused = [entry for entry in log_guard if entry["event"] == "connection refused"]
    assert [entry["error"] for entry in refused] == ["the client did not offer HTTP/2 (ALPN h2)"]


@pytest.mark.parametrize("protocols", [["http/1.1"], ["h2c", "spdy/3"]])
async def test_a_client_that_offers_only_other_protocols_is_refused(
    pki: TestPki, server: str, connect: Connect, protocols: list[str]
) -> None:
    """An ALPN offer without h2 is like none."""
    context = other_context(pki, "alice")
    context.set_alpn_protocols(protocols)
    async with client_with(server, context) as client:
        assert isinstance(await refusal(client), UnavailableError)
    await assert_works(connect)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", id="HTTP/1.1"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", id="HTTP/2 in plain"),
        pytest.param(bytes(range(255, -1, -1)) * 64, id="garbage"),
        pytest.param(b"\x16\x03\x01\x02\x00" + b"\xff" * 512, id="a record that holds no ClientHello"),
        pytest.param(b"\0" * 70_000, id="zeros"),
    ],
)
async def test_bytes_that_are_no_tls_end_the_connection(
    server: str, connect: Connect, log_guard: list[EventDict], sent: bytes
) -> None:
    """Plaintext and garbage get a TLS alert at most, never an answer; others do not notice."""
    stream = await trio.open_tcp_stream(*parse_address(server))
    async with stream:
        with trio.fail_after(SECONDS), contextlib.suppress(trio.BrokenResourceError):  # refused at the first bytes
            await stream.send_all(sent)
        received = await all_bytes(stream)
    assert received == b"" or (received[0] == 0x15 and len(received) == 7), "an alert record, or nothing"
    assert refusals(log_guard) == ["handshake refused"]
    await assert_works(connect)


async def test_garbage_inside_tls_ends_the_connection(pki: TestPki, server: str, connect: Connect) -> None:
    """Somebody with a good certificate who speaks no HTTP/2 ends their own connection, and nobody else's."""
    host, port = parse_address(server)
    stream = trio.SSLStream(await trio.open_tcp_stream(host, port), pki.context("alice"), server_hostname=host)
    with trio.fail_after(SECONDS):
        await stream.send_all(b"\xde\xad\xbe\xef" * 4096)
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass
    await trio.aclose_forcefully(stream)
    await assert_works(connect)


# ---- silence


def nothing() -> bytes:
    return b""


def half_a_client_hello() -> bytes:
    """The first half of a good ClientHello."""
    outgoing = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    hello = outgoing.read()
    return hello[: len(hello) // 2]


@pytest.mark.parametrize("begin", [nothing, half_a_client_hello])
async def test_connections_that_never_shake_hands_hinder_nobody(
    server: str, connect: Connect, begin: Callable[[], bytes]
) -> None:
    """More clients that connect and fall silent than may shake hands at once do not keep a good one from working."""
    silent = [await trio.open_tcp_stream(*parse_address(server)) for _ in range(Limits().handshakes + 20)]
    for stream in silent:
        with contextlib.suppress(trio.BrokenResourceError):  # it may have made room for a newer one
            await stream.send_all(begin())
    await assert_works(connect)
    assert await silent[0].receive_some() == b""  # the oldest has made room
    for stream in silent:
        await stream.aclose()


async def test_clients_that_hang_up_at_once_hinder_nobody(server: str, connect: Connect) -> None:
    """A port scan, with orderly ends and with resets, leaves nothing but the audit of good clients' calls."""
    for hard in (False, True) * 20:
        stream = await trio.open_tcp_stream(*parse_address(server))
        if hard:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await stream.aclose()
    await assert_works(connect)


# ---- the client judges the server


async def test_a_client_does_not_trust_a_server_of_another_ca(pki: TestPki, server: str, connect: Connect) -> None:
    """The client refuses, says that it did, and says where to look."""
    credentials = {**pki.credentials("alice"), "ca": pki.directory / "other" / "ca.crt"}
    async with JobClient.connect(server, **credentials, retry_for=0) as client:
        error = await refusal(client)
    assert isinstance(error, UnauthenticatedError)
    assert error.message.startswith(f"the certificate of the server at {server} was refused: ")
    assert "check --ca" in error.message
    await assert_works(connect)


async def test_a_server_whose_certificate_is_for_another_host_is_refused(tmp_path: Path) -> None:
    """The right CA is not enough: the certificate must be for the host that the client asked for."""
    now = datetime.now(UTC)
    authority = Authority.create(tmp_path / "pki", now=now)
    authority.issue_server(tmp_path / "pki", ["elsewhere.example"], now=now)
    authority.issue_client(tmp_path / "pki", "alice", [Role.WRITER], now=now)
    elsewhere = TestPki(tmp_path / "pki")
    async with (
        running_daemon(elsewhere, tmp_path / "state") as address,
        JobClient.connect(address, **elsewhere.credentials("alice"), retry_for=0) as client,
    ):
        error = await refusal(client)
    assert isinstance(error, UnauthenticatedError)
    assert "Hostname mismatch" in error.message
    assert "made for this host name" in error.message


async def test_the_address_works_as_a_host_name_too(pki: TestPki, server: str) -> None:
    """A certificate for an IP address is good for that address."""
    address = server.replace("localhost", "127.0.0.1")
    async with JobClient.connect(address, **pki.credentials("alice"), retry_for=0) as client:
        with trio.fail_after(SECONDS):
            assert (await client.workers()).workers


@asynccontextmanager
async def listening(serve: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[str]:
    """Something that is no jobd, on a free port."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield f"localhost:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def test_a_server_that_is_no_tls_server_is_told_apart(pki: TestPki) -> None:
    """A wrong port with something else behind it: UNAVAILABLE, with the guess that it is no jobd."""

    async def greet(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"220 mail.example ESMTP\r\n")
            await all_bytes(stream)

    async with (
        listening(greet) as address,
        JobClient.connect(address, **pki.credentials("alice"), retry_for=0) as client,
    ):
        error = await refusal(client)
    assert isinstance(error, UnavailableError)
    assert "is it a jobd?" in error.message


async def test_a_server_of_tls_1_2_only_is_refused(pki: TestPki) -> None:
    """The client speaks TLS 1.3 only, even with a server whose certificate is good."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pki.certificate("server"), pki.key("server"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def shake(stream: trio.SocketStream) -> None:
        # Not trio's SSLStream, which keeps OpenSSL's last alert to itself.
        with socket.socket(fileno=stream.socket.detach()) as plain:
            plain.setblocking(True)
            with contextlib.suppress(ssl.SSLError):
                await trio.to_thread.run_sync(partial(context.wrap_socket, plain, server_side=True))

    async with (
        listening(shake) as address,
        JobClient.connect(address, **pki.credentials("alice"), retry_for=0) as client,
    ):
        error = await refusal(client)
    assert isinstance(error, UnavailableError)
    assert "does not speak TLS 1.3" in error.message


async def test_a_server_that_hangs_up_is_unavailable(pki: TestPki) -> None:
    """A connection that ends during the handshake is UNAVAILABLE, and says so."""

    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async with (
        listening(hang_up) as address,
        JobClient.connect(address, **pki.credentials("alice"), retry_for=0) as client,
    ):
        error = await refusal(client)
    assert isinstance(error, UnavailableError)
    assert "closed during the TLS handshake" in error.message


async def test_a_port_where_nobody_listens_is_unavailable(pki: TestPki) -> None:
    """Nobody there is UNAVAILABLE, with the address and the question whether jobd runs."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, and not listened on
        address = f"localhost:{unused.getsockname()[1]}"
        async with JobClient.connect(address, **pki.credentials("alice"), retry_for=0) as client:
            error = await refusal(client)
    assert isinstance(error, UnavailableError)
    assert error.message.startswith(f"nobody answers at {address}: ")
    assert "Connection refused" in error.message
    assert error.message.endswith("is jobd running there?")
