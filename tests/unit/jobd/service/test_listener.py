"""What a listener is sent, and when: virtual time, and a call that notes what it is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
import trio
import trio.testing

from api.messages import StreamResponse
from api.protobuf import decode
from api.rpc.server import ServerCall
from jobd.output.broadcast import Broadcast
from jobd.service.listener import LITTLE, Listener
from jobd.worker.ports import Follower, Gap, Record, Source, Taker

HEARTBEAT = 10.0
ROOM = 100_000


class Call:
    """What it was given to send at once, while it takes that."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.takes = True
        self.room = ROOM
        self.opened = trio.Event()
        self.opened.set()

    async def writable(self) -> int:
        await self.opened.wait()
        return self.room

    def send_at_once(self, message: Sequence[Any]) -> bool:
        if self.takes:
            self.sent.append(decode(StreamResponse, b"".join(message)).output.data)
        return self.takes


class Live:
    """A follower that has caught up."""

    offset = 0

    def __init__(self, broadcast: Broadcast) -> None:
        self._live = broadcast.subscribe()
        self.there = False

    def at_hand(self, limit: int) -> bool:
        return self.there

    async def receive(self, limit: int = ROOM, taker: Taker | None = None) -> Sequence[Record | Gap]:
        return await self._live.receive(limit, lambda e: isinstance(e, Record) and taker is not None and taker(e))

    def close(self) -> None:
        self._live.close()


class Rig:
    """A listener, what it follows, and what came of it."""

    def __init__(self, source: Source | None = None) -> None:
        self.call, self.broadcast = Call(), Broadcast()
        self.follower = Live(self.broadcast)
        made = cast(ServerCall, self.call), cast(Follower, self.follower)
        self.listener = Listener(*made, HEARTBEAT, source)
        self.found: list[Sequence[Record | Gap] | None] = []

    async def receive(self) -> None:
        self.found.append(await self.listener.receive())


def record(data: bytes, source: Source = Source.STDOUT) -> Record:
    return Record(0, source, 1, data)


async def test_a_line_is_sent_in_the_turn_in_which_it_was_recorded(autojump_clock: trio.testing.MockClock) -> None:
    """The task of the call goes on waiting; what is not sent at once is given to it."""
    rig = Rig()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.receive)
        await trio.testing.wait_all_tasks_blocked()
        rig.broadcast.publish(record(b"one\n"))
        rig.broadcast.publish(record(b"two\n", Source.STDERR))
        assert rig.call.sent == [b"one\n", b"two\n"]
        await trio.testing.wait_all_tasks_blocked()
        assert rig.found == []
        rig.call.takes = False
        rig.broadcast.publish(record(b"three\n"))
        rig.call.takes = True
        rig.broadcast.publish(record(b"four\n"))  # not before the one that waits
    assert rig.call.sent == [b"one\n", b"two\n"]
    assert rig.found == [[record(b"three\n"), record(b"four\n")]]


@pytest.mark.parametrize("event", [Gap(0, 7), record(bytes(LITTLE + 1))])
async def test_what_is_no_little_record_is_given(autojump_clock: trio.testing.MockClock, event: Record | Gap) -> None:
    rig = Rig()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.receive)
        await trio.testing.wait_all_tasks_blocked()
        rig.broadcast.publish(event)
    assert (rig.call.sent, rig.found) == ([], [[event]])


async def test_the_other_stream_wakes_nobody(autojump_clock: trio.testing.MockClock) -> None:
    """Nor is it a sign of life."""
    rig = Rig(Source.STDERR)
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.receive)
        await trio.sleep(HEARTBEAT - 1)
        rig.broadcast.publish(record(b"out"))
    assert trio.current_time() - begin == HEARTBEAT
    assert (rig.call.sent, rig.found) == ([], [None])


@pytest.mark.parametrize("at_hand", [False, True])
async def test_only_what_is_wanted_is_given(autojump_clock: trio.testing.MockClock, at_hand: bool) -> None:
    """What is missing always is; what the other stream had is passed over, which is no sign of life either."""
    rig = Rig(Source.STDERR)
    rig.follower.there = at_hand
    for event in (record(b"out"), record(b"err", Source.STDERR), Gap(0, 1)):
        rig.broadcast.publish(event)
    await rig.receive()
    rig.follower.there = False
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.receive)
        for _ in range(3):
            await trio.sleep(HEARTBEAT * 0.4)
            rig.follower.there = at_hand
            rig.broadcast.publish(record(bytes(LITTLE + 1)))
    assert rig.found == [[record(b"err", Source.STDERR), Gap(0, 1)], None]
    assert trio.current_time() - begin == HEARTBEAT * 1.2


async def test_a_sign_of_life_is_due_when_nothing_was_sent_for_so_long(autojump_clock: trio.testing.MockClock) -> None:
    """What is sent at once counts."""
    rig = Rig()
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.receive)
        for _ in range(3):
            await trio.sleep(HEARTBEAT * 0.75)
            rig.broadcast.publish(record(b"line\n"))
    assert rig.found == [None]
    assert trio.current_time() - begin == HEARTBEAT * 3.25


async def test_who_is_interrupted_waits_no_longer(autojump_clock: trio.testing.MockClock) -> None:
    """Not even when something was sent just now; and waits again when it is asked again."""
    rig = Rig()
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.receive)
        await trio.sleep(1)
        rig.broadcast.publish(record(b"line\n"))
        rig.listener.interrupt()
    assert (rig.found, trio.current_time() - begin) == ([None], 1)
    await rig.receive()
    assert trio.current_time() - begin == 1 + HEARTBEAT


async def test_what_is_at_hand_is_given_as_it_is(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    rig.follower.there = True
    rig.broadcast.publish(record(b"much"))
    await rig.receive()
    assert (rig.call.sent, rig.found) == ([], [[record(b"much")]])


async def test_the_end_is_the_end(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.receive)
        await trio.testing.wait_all_tasks_blocked()
        rig.broadcast.end()
    assert rig.found == [[]]


async def test_what_was_not_sent_at_once_is_as_much_as_the_caller_accepts_then(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Not as much as it accepted when it began to wait; and nothing while it accepts nothing."""
    rig = Rig()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.receive)
        await trio.testing.wait_all_tasks_blocked()
        rig.call.takes, rig.call.room, rig.call.opened = False, 3, trio.Event()
        rig.broadcast.publish(record(b"a line\n"))
        await trio.testing.wait_all_tasks_blocked()
        assert rig.found == []
        rig.call.opened.set()
    assert rig.found == [[record(b"a l")]]


async def test_who_is_interrupted_while_the_caller_accepts_nothing_has_something_else_to_say(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rig = Rig()
    rig.call.opened = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.receive)
        await trio.testing.wait_all_tasks_blocked()
        rig.listener.interrupt()
        rig.call.opened.set()
    assert rig.found == [None]
