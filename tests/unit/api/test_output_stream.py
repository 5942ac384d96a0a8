"""A job's output as a client reads it, from a server in memory that does what the test wants."""

from __future__ import annotations

import betterproto
import pytest
import trio
import trio.testing

from api import methods
from api.errors import UnavailableError
from api.messages import Output, OutputSource, StreamRequest, StreamResponse, Verdict
from api.output import OutputStream, Piece
from api.rpc.channel import Channel
from api.rpc.server import ServerCall, router, server_stream
from tests.support.rig import Rig, rig


class Servers:
    """Those that an :class:`OutputStream` asks."""

    retry_for = 10.0

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    async def channel(self) -> Channel:
        return self._rig.channel

    def avoid(self, channel: Channel) -> None:
        """There is no other."""


async def test_what_is_taken_at_once_is_not_given_again() -> None:
    """Nor asked for again when the stream was cut behind it; what is not taken is given, and what comes behind it."""
    asked: list[int] = []

    async def stream(call: ServerCall, request: StreamRequest) -> None:
        asked.append(begin := betterproto.which_one_of(request, "start")[1] or 0)
        call.start_response()
        for offset in range(begin, 6):
            await trio.testing.wait_all_tasks_blocked()  # the client waits
            await call.send(StreamResponse(output=Output(b"%d" % offset, offset, OutputSource.STDOUT)))
            if len(asked) == 1 and offset == 2:
                await trio.testing.wait_all_tasks_blocked()
                raise UnavailableError("cut")
        await call.send(StreamResponse(verdict=Verdict(end_offset=6)))

    taken: list[bytes] = []

    def taker(piece: Piece) -> bool:
        if piece.offset == 4:
            return False
        taken.append(b"".join(piece.data))
        return True

    async with rig(router({methods.STREAM.path: server_stream(stream)})) as r:
        output = OutputStream(Servers(r), StreamRequest("x"))
        found = await output.receive(taker)
        assert found is not None
        assert (found.offset, b"".join(found.data), output.offset) == (4, b"4", 5)
        assert await output.receive(taker) is None
        await output.aclose()
    assert taken == [b"0", b"1", b"2", b"3", b"5"]
    assert asked == [0, 3]
    assert output.verdict is not None
    assert output.offset == output.verdict.end_offset == 6


async def test_what_a_taker_raises_is_its_owner_s() -> None:
    """The connection and its other calls go on."""

    async def stream(call: ServerCall, request: StreamRequest) -> None:
        call.start_response()
        await trio.testing.wait_all_tasks_blocked()
        await call.send(StreamResponse(output=Output(b"data", 0, OutputSource.STDOUT)))
        await trio.sleep_forever()

    def taker(piece: Piece) -> bool:
        raise ZeroDivisionError

    async with rig(router({methods.STREAM.path: server_stream(stream)})) as r:
        output = OutputStream(Servers(r), StreamRequest("x"))
        with pytest.raises(ZeroDivisionError):
            await output.receive(taker)
        await output.aclose()
        async with r.channel.call(methods.STREAM, StreamRequest("x")) as answers:
            assert await answers.receive()
