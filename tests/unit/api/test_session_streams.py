"""Streams of a connection whose reader stops, takes nothing, or leaves. In memory."""

from __future__ import annotations

import trio
import trio.testing

from api import methods
from api.messages import QueryRequest, StreamRequest
from api.rpc.codec import Parts, whole
from api.rpc.sender import CHUNK
from api.rpc.server import ServerCall, router, server_stream, unary
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


async def test_what_is_sent_at_once_comes_in_order_with_what_waits() -> None:
    """The client cannot tell them apart."""

    async def stream(call: ServerCall, request: StreamRequest) -> None:
        assert not call.send_at_once((b"too early",))  # its headers are not out
        call.start_response()
        for number in range(5):
            assert call.send_at_once((b"at once ", b"%d" % number))
            await call.send(b"waiting %d" % number)

    async with (
        rig(router({methods.STREAM.path: server_stream(stream)})) as r,
        r.channel.call(methods.STREAM, StreamRequest()) as answers,
    ):
        found = []
        while (parts := await answers.receive_parts()) is not None:
            found.append(bytes(whole(parts)))
    assert found == [text % number for number in range(5) for text in (b"at once %d", b"waiting %d")]


async def test_nothing_is_sent_at_once_to_a_peer_that_takes_nothing() -> None:
    """Neither beyond its window nor behind what the socket has not taken; of a message that is not sent nothing is,
    and when the peer takes again, it goes on."""
    sent, going_on = [0], trio.Event()

    async def stream(call: ServerCall, request: StreamRequest) -> None:
        call.start_response()
        while call.send_at_once((bytes(50_000),)):
            sent[0] += 1
        await going_on.wait()
        await call.writable()
        r.server.flow(flowing=False)
        assert call.send_at_once((b"the socket takes no more",))
        assert not call.send_at_once((b"and this waits",))
        r.server.flow(flowing=True)
        assert call.send_at_once((b"the end",))

    async with (
        rig(router({methods.STREAM.path: server_stream(stream)})) as r,
        r.channel.call(methods.STREAM, StreamRequest()) as answers,
    ):
        await trio.testing.wait_all_tasks_blocked()
        assert STREAM_WINDOW - 100_000 < sent[0] * 50_000 <= STREAM_WINDOW
        going_on.set()
        found = []
        while (parts := await answers.receive_parts()) is not None:
            found.append(bytes(whole(parts)))
    assert found == [bytes(50_000)] * sent[0] + [b"the socket takes no more", b"the end"]


async def test_nothing_is_sent_at_once_to_who_has_left() -> None:
    """And whoever tries is not told more than that: it is not the call's own task."""
    left = trio.Event()

    async def stream(call: ServerCall, request: StreamRequest) -> None:
        call.start_response()
        try:
            await trio.sleep_forever()
        finally:
            assert not call.send_at_once((b"too late",))
            left.set()

    async with rig(router({methods.STREAM.path: server_stream(stream)})) as r:
        async with r.channel.call(methods.STREAM, StreamRequest()):
            await trio.testing.wait_all_tasks_blocked()
        await left.wait()


async def test_nobody_sends_at_once_in_front_of_who_waits_for_a_turn() -> None:
    """A message that is on its way is not cut in two."""
    calls: list[ServerCall] = []

    async def stream(call: ServerCall, request: StreamRequest) -> None:
        call.start_response()
        calls.append(call)
        if len(calls) == 1:
            await trio.sleep_forever()
        r.server.flow(flowing=False)
        await call.send(bytes(3 * CHUNK))

    async with (
        rig(router({methods.STREAM.path: server_stream(stream)})) as r,
        r.channel.call(methods.STREAM, StreamRequest()),
    ):
        await trio.testing.wait_all_tasks_blocked()
        async with r.channel.call(methods.STREAM, StreamRequest()) as answers:
            await trio.testing.wait_all_tasks_blocked()
            assert not calls[0].send_at_once((b"me first",))
            r.server.flow(flowing=True)
            parts = await answers.receive_parts()
            assert parts is not None
            assert whole(parts) == bytes(3 * CHUNK)


async def test_what_comes_while_a_client_waits_may_be_taken_in_that_turn() -> None:
    """Its place in the window is given back as if it had waited, and what is not taken is given to who waits."""
    count = 4 * STREAM_WINDOW // 50_000
    taken = []

    async def stream(call: ServerCall, request: StreamRequest) -> None:
        for _ in range(count):
            await call.send(bytes(50_000))
        await call.send(b"not this")

    def taker(parts: Parts) -> bool:
        taken.append(len(whole(parts)))
        return taken[-1] == 50_000

    async with (
        rig(router({methods.STREAM.path: server_stream(stream)})) as r,
        r.channel.call(methods.STREAM, StreamRequest()) as answers,
    ):
        parts = await answers.receive_parts(taker)
        assert parts == (b"not this",)
        assert await answers.receive_parts(taker) is None
    assert taken == [50_000] * count + [len(b"not this")]
