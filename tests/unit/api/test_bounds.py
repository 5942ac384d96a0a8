"""What a peer can make a server hold: bounded, counted, and given back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from api.messages import QueryRequest, QueryResponse
from api.protobuf import encode
from api.rpc.call_stream import LEAST, MORE_IS_COMING, OVERHEAD
from api.rpc.frames import GOAWAY
from api.rpc.patience import CAPACITY
from api.rpc.sender import FEW, HELD, HELD_BY_FEW
from api.rpc.server import Handler, ServerCall, router, serve_connection, server_stream, unary
from api.rpc.share import TOTAL
from api.rpc.statistics import Connections, Holdings
from api.rpc.windows import STREAM_WINDOW
from tests.support.transport import MemoryTransport
from tests.support.wire import CALL, RawClient

PATH = dict(CALL)[":path"]


@asynccontextmanager
async def raw_client(handler: Handler, counted: Connections) -> AsyncIterator[tuple[MemoryTransport, RawClient]]:
    """A server, and a client that sends frames of its own making."""
    server, client = MemoryTransport.pair()
    raw = RawClient()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await serve_connection(server, handler, draining=trio.Event(), keepalive=1000, connections=counted)

        nursery.start_soon(serve)
        yield client, raw
        nursery.cancel_scope.cancel()


async def send(client: MemoryTransport, data: bytes) -> None:
    client.write((data,))
    await trio.testing.wait_all_tasks_blocked()


async def for_ever(call: ServerCall, request: QueryRequest) -> QueryResponse:
    await trio.sleep_forever()
    raise AssertionError


async def answer_at_once(call: ServerCall, request: QueryRequest) -> QueryResponse:
    return QueryResponse()


async def test_a_flood_is_sent_away_and_counted() -> None:
    """GOAWAY, the end of the connection, and of the call that was open on it; nothing is left."""
    counted = Connections()
    ended = trio.Event()

    async def handler(call: ServerCall, request: QueryRequest) -> QueryResponse:
        try:
            return await for_ever(call, request)
        finally:
            ended.set()

    async with raw_client(router({PATH: unary(handler)}), counted) as (client, raw):
        await send(client, raw.begin() + raw.call(1))
        assert counted.statistics().held == Holdings(calls=1)
        await send(client, raw.ping() * (2 * int(CAPACITY)))
        with trio.fail_after(5):
            await ended.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert bytes([GOAWAY]) in client._received
        found = counted.statistics()
        assert (found.connections, found.connections_served, found.calls_served) == (0, 1, 1)
        assert (found.sent_away, found.broke_protocol) == (1, 0)
        assert found.held == Holdings()


async def test_a_flood_lets_others_have_their_turn() -> None:
    """A neighbour's call that comes at the same time is answered before the flood is through."""
    handler = router({PATH: unary(answer_at_once)})
    async with raw_client(handler, Connections()) as (flood, raw), raw_client(handler, Connections()) as (other, calm):
        await send(flood, raw.begin())
        await send(other, calm.begin())
        answered = len(flood._received), len(other._received)
        flood.write((raw.ping() * 1500,))
        other.write((calm.call(1),))
        while len(other._received) == answered[1]:
            await trio.lowlevel.checkpoint()
        assert (len(flood._received) - answered[0]) / len(raw.ping()) < 400
        await trio.testing.wait_all_tasks_blocked()
        assert len(flood._received) - answered[0] == 1500 * len(raw.ping())


async def test_another_violation_is_counted_too() -> None:
    """As what it is."""
    counted = Connections()
    async with raw_client(router({}), counted) as (client, raw):
        await send(client, raw.begin() + raw.any_frame(9, 4, 1, b""))
        assert (counted.statistics().sent_away, counted.statistics().broke_protocol) == (0, 1)


async def test_what_nobody_has_taken_is_counted() -> None:
    """Whole requests and parts of them, until the call is over; then all of it goes back to the client's window."""
    counted = Connections()

    async def handler(call: ServerCall) -> None:
        await trio.sleep_forever()

    async with raw_client(router({PATH: handler}), counted) as (client, raw):
        await send(client, raw.begin() + raw.headers(1) + raw.message(1, bytes(1000), end=False))
        await send(client, raw.data(1, b"\0\0\0\x10\0" + bytes(500)))
        assert counted.statistics().held == Holdings(calls=1, unread_bytes=1005 + 505)
        await send(client, raw.reset(1))
        assert counted.statistics().held == Holdings()


@pytest.mark.parametrize("ends", ["window", "reset"])
async def test_what_waits_for_a_window_is_counted(ends: str) -> None:
    """Until the peer wants it, or gives the call up."""
    counted = Connections()
    answer = QueryResponse()
    answer.job.message = "x" * 1000
    size = 5 + len(encode(answer))

    async def handler(call: ServerCall, request: QueryRequest) -> None:
        call.start_response()
        await call.send(answer)

    async with raw_client(router({PATH: server_stream(handler)}), counted) as (client, raw):
        await send(client, raw.begin({4: 10}) + raw.call(1))
        assert counted.statistics().held == Holdings(calls=1, ready_bytes=size - 10)
        await send(client, raw.window(1, size) if ends == "window" else raw.reset(1))
        assert counted.statistics().held == Holdings()


async def test_reset_calls_leave_nothing() -> None:
    """A thousand that were opened and given up at once: no task, no stream, no answer."""
    counted = Connections()
    running = 0

    async def handler(call: ServerCall, request: QueryRequest) -> QueryResponse:
        nonlocal running
        running += 1
        try:
            return await for_ever(call, request)
        finally:
            running -= 1

    async with raw_client(router({PATH: unary(handler)}), counted) as (client, raw):
        await send(client, raw.begin())
        for number in range(1000):
            await send(client, raw.call(2 * number + 1) + raw.reset(2 * number + 1))
        assert running == 0
        assert counted.statistics().held == Holdings()


async def rooms(settings: dict[int, int], streams: int, window: int = 0) -> list[int]:
    """What each of so many streams is told to hold, with this window of the connection beside the first 64 KiB."""
    found: list[int] = []

    async def handler(call: ServerCall, request: QueryRequest) -> None:
        await trio.testing.wait_all_tasks_blocked()  # all of them are open
        found.append(await call.writable())
        await trio.sleep_forever()

    async with raw_client(router({PATH: server_stream(handler)}), Connections()) as (client, raw):
        update = raw.window(0, window) if window else b""
        await send(client, raw.begin(settings) + update + b"".join(raw.call(2 * n + 1) for n in range(streams)))
        await trio.testing.wait_all_tasks_blocked()
    return found


@pytest.mark.parametrize(
    ("settings", "streams", "window", "room"),
    [
        pytest.param({4: 10_000}, 1, 0, 10_000 - OVERHEAD, id="as much as a small window takes"),
        pytest.param({4: 1}, 1, 0, LEAST, id="not byte by byte"),
        pytest.param({4: 2**30}, 1, 2**30, HELD, id="a bounded part of a large window"),
        pytest.param({4: 2**30}, 500, 2**30, HELD // 500, id="a share when there are many"),
        pytest.param({4: 2**30}, FEW, 2**30, HELD_BY_FEW, id="more than a share when there are few"),
        pytest.param({4: 2**30}, FEW + 1, 2**30, HELD // (FEW + 1), id="which more than a few are not"),
        pytest.param({4: 2**30}, 2, 0, 65_535 - OVERHEAD, id="as much as the connection's window takes"),
    ],
)
async def test_a_stream_holds_what_its_client_wants(
    settings: dict[int, int], streams: int, window: int, room: int
) -> None:
    """However large or small a window it gives."""
    assert await rooms(settings, streams, window) == [room] * streams


async def test_the_streams_of_all_connections_share() -> None:
    """What one may hold depends on how many there are anywhere; a call that is over, or cut off, counts no more."""
    counted = Connections()
    found: list[int] = []

    async def handler(call: ServerCall, request: QueryRequest) -> None:
        await trio.testing.wait_all_tasks_blocked()
        found.append(await call.writable())
        await trio.sleep_forever()

    many, large = 100, {4: 2**30}
    routes = router({PATH: server_stream(handler)})
    async with raw_client(routes, counted) as (client, raw):
        calls = b"".join(raw.call(2 * n + 1) for n in range(many))
        await send(client, raw.begin({**large, 3: many}) + raw.window(0, 2**30) + calls)
        async with raw_client(routes, counted) as (second, other):
            await send(second, other.begin(large) + other.window(0, 2**30) + other.call(1))
            await trio.testing.wait_all_tasks_blocked()
        assert counted.share.calls == many
    assert counted.share.calls == 0
    assert found == [*[HELD // many] * many, TOTAL // (many + 1)]


async def ends_of_a_window(update: bytes) -> list[int]:
    """What a stream is told to hold at first, and again when it has used most of its window and this came."""
    found: list[int] = []

    async def handler(call: ServerCall, request: QueryRequest) -> None:
        found.append(await call.writable())
        await call.send(bytes(90_000))
        found.append(await call.writable())
        await trio.sleep_forever()

    async with raw_client(router({PATH: server_stream(handler)}), Connections()) as (client, raw):
        await send(client, raw.begin({4: 100_000}) + raw.window(0, 2**20) + raw.call(1))
        assert found == [100_000 - OVERHEAD]
        await send(client, update)
        await trio.sleep(2 * MORE_IS_COMING)
    return found


async def test_the_end_of_a_window_waits_for_more(autojump_clock: MockClock) -> None:
    """A small message now would be followed by one each time that the window opens."""
    raw = RawClient()
    assert await ends_of_a_window(raw.window(1, 90_000)) == [100_000 - OVERHEAD, 99_995 - OVERHEAD]


async def test_the_end_of_a_window_does_not_wait_for_ever(autojump_clock: MockClock) -> None:
    """A client may open its window only when that is shut."""
    assert await ends_of_a_window(b"") == [100_000 - OVERHEAD, 9_995 - OVERHEAD]


async def test_a_shut_window_holds_nothing() -> None:
    """The stream waits, and holds no byte for a client that wants none."""
    assert await rooms({4: 0}, 3) == []


async def test_small_answers_to_who_does_not_read_wait_for_the_peer() -> None:
    """Once the socket is full, answers are made one at a time: what is unsent does not grow with the calls."""
    counted = Connections()
    answer = QueryResponse()
    answer.job.message = "x" * 50_000

    async def handler(call: ServerCall, request: QueryRequest) -> QueryResponse:
        return answer

    async with raw_client(router({PATH: unary(handler)}), counted) as (client, raw):
        other = client._other
        other.flow(flowing=False)
        await send(client, raw.begin({4: 2**30, 5: 2**20}) + raw.window(0, 2**30))
        for number in range(200):
            await send(client, raw.call(2 * number + 1))
        assert counted.statistics().held.unsent_bytes < 2 * len(encode(answer)) + 10_000
        other.flow(flowing=True)
        await trio.testing.wait_all_tasks_blocked()
        assert counted.statistics().held == Holdings()
        assert client._received.count(b"x" * 50_000) == 200


def test_a_whole_message_fits_the_window() -> None:
    """Or a reader of whole messages would wait for ever."""
    assert STREAM_WINDOW > 4 * 1024 * 1024 + 5
