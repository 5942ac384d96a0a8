"""TLS bytes over a socket: what a peer said last is heard, also when we spoke to it after it had gone."""

from __future__ import annotations

import socket
import ssl

import pytest
import trio

from api.rpc.connect import alert_of
from api.rpc.stream import RECEIVE, TLSStream
from api.tls import server_context
from tests.support.pki import TestPki


async def test_a_refusal_is_heard_after_a_write_that_failed(pki: TestPki) -> None:
    """A server judges our certificate when we believe to be done, and is gone when we begin to speak."""
    ours, theirs = socket.socketpair()
    context = server_context(certificate=pki.certificate("server"), key=pki.key("server"), ca=pki.ca)
    async with trio.open_nursery() as nursery:
        gone = trio.Event()
        nursery.start_soon(refuse, theirs, context, gone)
        stream = await TLSStream.handshake(
            ours, pki.context("stranger"), server_side=False, server_hostname="localhost", receive_size=RECEIVE
        )
        await gone.wait()
        with pytest.raises(trio.BrokenResourceError):
            stream.write((b"PRI * HTTP/2.0",))
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive()
        assert alert_of(caught.value.__cause__)
        with pytest.raises(trio.BrokenResourceError, match="before"):
            await stream.receive()
        await stream.aclose()


async def refuse(sock: socket.socket, context: ssl.SSLContext, gone: trio.Event) -> None:
    """A server whose handshake fails: it says why, and closes."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    transport = trio.socket.from_stdlib_socket(sock)
    with transport:
        refused = False
        while not refused:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                refused = True
            if outgoing.pending:
                await transport.send(outgoing.read())
            if not refused:
                incoming.write(await transport.recv(65536))
    gone.set()
