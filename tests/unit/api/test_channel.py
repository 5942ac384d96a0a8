"""The client's side with others' messages, and signs of life. In memory."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from api import methods
from api.errors import DeadlineExceededError, NotFoundError, UnavailableError
from api.messages import Job, QueryRequest, QueryResponse
from api.protobuf import decode, encode
from api.rpc.channel import channel_over
from api.rpc.server import ServerCall
from api.rpc.session import Session
from tests.support.rig import answer, for_ever, query, rig
from tests.support.transport import MemoryTransport

SERVICE, NAME = methods.QUERY.service, methods.QUERY.name


async def test_bytes_are_exchanged() -> None:
    """With what the channel was told to say beside them."""
    seen: list[tuple[str, str | bytes]] = []

    async def look(call: ServerCall, request: QueryRequest) -> QueryResponse:
        seen.extend(call.metadata)
        return QueryResponse(Job(id=request.job_id))

    async with rig(query(look)) as r:
        channel = r.channel.saying((("hasleader", "true"),))
        data = await channel.exchange(SERVICE, NAME, encode(QueryRequest("x")), timeout=60)
        assert decode(QueryResponse, data).job.id == "x"
        assert ("hasleader", "true") in seen
        assert r.session.streams == {}


async def test_an_exchange_ends_as_the_call_does() -> None:
    """With its error; nothing of it is kept."""

    async def fail(call: ServerCall, request: QueryRequest) -> QueryResponse:
        raise NotFoundError("gone")

    async with rig(query(fail)) as r:
        with pytest.raises(NotFoundError, match="gone"):
            await r.channel.exchange(SERVICE, NAME, b"", timeout=60)
        assert r.session.streams == {}


async def test_an_exchange_has_a_deadline_here_too(autojump_clock: trio.testing.MockClock) -> None:
    """Whatever the server makes of it."""
    async with rig(query(for_ever)) as r:
        r.server.flowing = False
        with pytest.raises(DeadlineExceededError):
            await r.channel.exchange(SERVICE, NAME, b"", timeout=3)
        assert trio.current_time() == pytest.approx(3, abs=0.1)
        assert r.session.streams == {}


async def test_a_server_that_speaks_gives_a_sign_of_life() -> None:
    """And one that says nothing gives none, in time."""
    async with rig(query(answer)) as r:
        assert await r.channel.greet(60)


async def test_a_silent_server_gives_no_sign_of_life(autojump_clock: trio.testing.MockClock) -> None:
    """After the time that was given."""
    _, ours = MemoryTransport.pair()
    async with channel_over(ours, "test") as channel:
        with pytest.raises(trio.TooSlowError):
            await channel.greet(2)


@pytest.mark.parametrize("before", [True, False])
async def test_a_lost_connection_gives_no_sign_of_life(before: bool) -> None:
    """At once, whether it was lost before that or meanwhile."""
    _, ours = MemoryTransport.pair()
    async with channel_over(ours, "test") as channel, trio.open_nursery() as nursery:
        if before:
            channel._session.lose("gone")
        else:
            nursery.start_soon(_lose_soon, channel._session)
        with pytest.raises(UnavailableError, match="gone"):
            await channel.greet(1000)


async def _lose_soon(session: Session) -> None:
    await trio.testing.wait_all_tasks_blocked()
    session.lose("gone")


@pytest.mark.parametrize("when_idle", [True, False])
async def test_an_idle_channel_may_be_silent(when_idle: bool, autojump_clock: trio.testing.MockClock) -> None:
    """Some servers end connections that ask for signs of life without a call."""
    _, silent = MemoryTransport.pair()
    async with channel_over(silent, "test", keepalive=6, when_idle=when_idle) as channel:
        await trio.sleep(100)
        assert channel.usable is not when_idle
        if not when_idle:
            channel.begin(SERVICE, NAME)  # and now it is not idle
            await trio.sleep(100)
            assert not channel.usable
