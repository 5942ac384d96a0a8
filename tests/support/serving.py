"""Servers of ours with other handlers than a daemon's, on real connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from api.rpc.server import Handler, serve_connection
from api.rpc.stream import TLSStream
from api.tls import server_context
from jobd.transport.listener import Limits, bind, serve
from tests.support.pki import TestPki


@asynccontextmanager
async def serving(pki: TestPki, handler: Handler) -> AsyncIterator[int]:
    """A server of ours; gives its port."""

    async def handle(stream: TLSStream) -> None:
        await serve_connection(stream, handler, draining=trio.Event(), keepalive=1000)

    context = server_context(certificate=pki.certificate("server"), key=pki.key("server"), ca=pki.ca)
    with bind("127.0.0.1", 0) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(serve, listener, lambda: context, Limits(), handle, draining=trio.Event()))
            yield listener.getsockname()[1]
            nursery.cancel_scope.cancel()
