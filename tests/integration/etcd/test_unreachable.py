"""An etcd that cannot be reached, or is none: which error it is, and that nothing was done."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial

import pytest
import trio
import trio.testing

from jobd.pools.etcd.client import Client, open_client
from jobd.pools.etcd.endpoints import Endpoint, Etcd, Limits
from jobd.pools.etcd.errors import EtcdCertificateError, EtcdError, NotEtcdError, StoreUnavailableError
from jobd.pools.etcd.transaction import Put, Txn
from tests.support.etcd import Cluster
from tests.support.patience import patient
from tests.support.pki import TestPki

PUT = Txn((), (Put(b"key", b"value"),))
PATIENT = Limits(patient(30), patient(30))


@contextmanager
def silent() -> Iterator[Endpoint]:
    """A socket that connections are queued at, and nobody takes them."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield Endpoint(*sock.getsockname())


@contextmanager
def black_hole() -> Iterator[Endpoint]:
    """A socket whose queue is full: a SYN gets no answer at all."""
    with silent_queue_of_one() as (endpoint, fillers):
        # The kernel takes one more than it is told; what comes after that is dropped.
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex((endpoint.host, endpoint.port))
        yield endpoint


@contextmanager
def silent_queue_of_one() -> Iterator[tuple[Endpoint, list[socket.socket]]]:
    fillers = [socket.socket() for _ in range(4)]
    with socket.create_server(("127.0.0.1", 0), backlog=0) as sock:
        try:
            yield Endpoint(*sock.getsockname()), fillers
        finally:
            for filler in fillers:
                filler.close()


@contextmanager
def closed() -> Iterator[Endpoint]:
    """An address that refuses connections: it is bound, and nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield Endpoint(*sock.getsockname())


@asynccontextmanager
async def speaking(first: bytes, context: ssl.SSLContext | None = None) -> AsyncIterator[Endpoint]:
    """A server that says something to whoever comes, and then listens until they go."""

    async def serve(stream: trio.abc.Stream) -> None:
        if context:
            stream = trio.SSLStream(stream, context, server_side=True)
        try:
            await stream.send_all(first)
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass  # refused

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield Endpoint(*listener.socket.getsockname())
        nursery.cancel_scope.cancel()


async def failure(etcd: Etcd, limits: Limits = PATIENT) -> EtcdError:
    """What a write ends with."""
    etcd = replace(etcd, limits=limits)
    async with open_client(etcd, first=0) as client:
        with pytest.raises(EtcdError) as caught:
            await client.txn(PUT)
    return caught.value


@pytest.fixture
def tls(pki: TestPki) -> ssl.SSLContext:
    tls = Etcd.at("etcd://127.0.0.1:1", certificate=pki.certificate("alice"), key=pki.key("alice"), ca=pki.ca).tls
    assert tls
    return tls


async def test_nobody_listens(tls: ssl.SSLContext) -> None:
    """At once, and nothing was done."""
    with closed() as endpoint:
        error = await failure(Etcd((endpoint,), tls))
    assert isinstance(error, StoreUnavailableError)
    assert "Connection refused" in str(error)
    assert not error.ambiguous


@pytest.mark.parametrize("plaintext", [False, True])
@pytest.mark.parametrize("kind", [silent, black_hole])
async def test_nobody_answers(
    kind: type, plaintext: bool, tls: ssl.SSLContext, autojump_clock: trio.testing.MockClock
) -> None:
    """Two seconds for TCP, TLS and a first sign of life together; then nothing was done."""
    with kind() as endpoint:
        begun = trio.current_time()
        error = await failure(Etcd((endpoint,), None if plaintext else tls), Limits())
        assert trio.current_time() - begun == pytest.approx(Limits().connect, abs=0.5)
    assert isinstance(error, StoreUnavailableError)
    assert not error.ambiguous


async def test_many_that_wait_for_a_connection_wait_once(
    tls: ssl.SSLContext, autojump_clock: trio.testing.MockClock
) -> None:
    """They share what came of it."""

    async def ask(client: Client) -> None:
        with pytest.raises(StoreUnavailableError):
            await client.txn(PUT)

    begun = trio.current_time()
    with silent() as endpoint:
        async with open_client(Etcd((endpoint,), tls)) as client, trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask, client)
    assert trio.current_time() - begun == pytest.approx(Limits().connect, abs=0.5)


async def test_it_speaks_no_tls(tls: ssl.SSLContext) -> None:
    """Something that greets in plain text."""
    async with speaking(b"SSH-2.0-OpenSSH_9.2p1\r\n") as endpoint:
        error = await failure(Etcd((endpoint,), tls))
    assert isinstance(error, NotEtcdError)
    assert not error.ambiguous


async def test_it_speaks_no_http2(pki: TestPki, tls: ssl.SSLContext) -> None:
    """Over TLS, something else than HTTP/2."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pki.certificate("server"), pki.key("server"))
    async with speaking(b"", context) as endpoint:
        error = await failure(Etcd((endpoint,), tls))
    assert isinstance(error, NotEtcdError)
    assert not error.ambiguous


async def test_it_speaks_http1_in_plain_text() -> None:
    """What an etcd without TLS is not."""
    async with speaking(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n") as endpoint:
        error = await failure(Etcd((endpoint,), None))
    assert isinstance(error, NotEtcdError)
    assert not error.ambiguous


async def test_its_certificate_is_of_another_ca(etcd: Cluster, tls: ssl.SSLContext) -> None:
    """We say nothing to it."""
    error = await failure(Etcd(etcd.etcd.endpoints, tls))
    assert isinstance(error, EtcdCertificateError)
    assert "--pool-ca" in str(error)
    assert not error.ambiguous


async def test_our_certificate_is_of_another_ca(etcd: Cluster, pki: TestPki) -> None:
    """It takes nothing from us."""
    ours = Etcd.at(
        f"etcd://{etcd.members[0].endpoint}",
        certificate=pki.certificate("alice"),
        key=pki.key("alice"),
        ca=etcd.directory / "ca.crt",
    )
    error = await failure(ours)
    assert isinstance(error, EtcdCertificateError)
    assert "refused this client's certificate" in str(error)
    assert not error.ambiguous


async def test_the_next_one_is_asked(etcd: Cluster, prefix: bytes) -> None:
    """A call that certainly was not done is made there, and so are those after it."""
    with closed() as endpoint:
        both = etcd.of([endpoint, etcd.members[0].endpoint])
        async with open_client(both, first=0) as client:
            assert (await client.txn(Txn((), (Put(prefix, b""),)))).held
            assert (await client.links.get()).where == str(etcd.members[0].endpoint)


async def test_two_that_fail_in_different_ways_may_be_back_later(etcd: Cluster, tls: ssl.SSLContext) -> None:
    """That one of them is not ours does not say that none is."""
    with closed() as endpoint:
        error = await failure(Etcd((endpoint, etcd.members[0].endpoint), tls))
    assert isinstance(error, StoreUnavailableError)
    assert "Connection refused" in str(error)
    assert "--pool-ca" in str(error)
