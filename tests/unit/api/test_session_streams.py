"""Streams of a connection whose reader stops, takes nothing, or leaves. In memory."""

from __future__ import annotations

import trio

from api import methods
from api.messages import QueryRequest, StreamRequest
from api.rpc.codec import whole
from api.rpc.server import ServerCall, router, server_stream, unary
from api.rpc.session import CHUNK
from api.rpc.windows import STREAM_WINDOW
from tests.support.rig import answer, big_stream, rig


async def test_a_reader_that_stops_costs_one_chunk() -> None:
    """However large a window the client gave, the server holds no more than a chunk of unsent bytes."""
    async with (
        rig(router({methods.STREAM.path: server_stream(big_stream)})) as r,
        r.channel.call(methods.STREAM, StreamRequest()) as answers,
    ):
        assert await answers.receive()
        r.server.flow(flowing=False)
        for _ in range(20):  # let the client take, and give back, all that was on its way
            with trio.move_on_after(0.01):
                await answers.receive()
        await trio.testing.wait_all_tasks_blocked()
        assert 0 < r.server.pending <= CHUNK + 16 * 1024
        r.server.flow(flowing=True)
        assert await answers.receive()


async def test_a_client_that_does_not_take_messages_closes_its_window() -> None:
    """The server stops; other calls on the connection go on."""
    handlers = {methods.STREAM.path: server_stream(big_stream), methods.QUERY.path: unary(answer)}
    async with rig(router(handlers)) as r, r.channel.call(methods.STREAM, StreamRequest()) as answers:
        await trio.testing.wait_all_tasks_blocked()
        [stream] = r.session.streams.values()
        held = sum(len(whole(event.data)) for event in stream._messages)
        assert STREAM_WINDOW - 200_000 < held <= STREAM_WINDOW
        assert (await r.channel.unary(methods.QUERY, QueryRequest("x"))).job.id == "x"
        for _ in range(200):  # 20 MB: several windows
            assert await answers.receive()


async def test_leaving_a_stream_early_tells_the_server() -> None:
    """Its handler ends, and its part of the connection's window comes back."""
    ended = trio.Event()

    async def stream(call: ServerCall, request: StreamRequest) -> None:
        try:
            await big_stream(call, request)
        finally:
            ended.set()

    async with rig(router({methods.STREAM.path: server_stream(stream)})) as r:
        for _ in range(10):  # each leaves up to a window of unread messages; together far more than the connection's
            ended = trio.Event()
            async with r.channel.call(methods.STREAM, StreamRequest()) as answers:
                assert await answers.receive()
                await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(5):
                await ended.wait()
