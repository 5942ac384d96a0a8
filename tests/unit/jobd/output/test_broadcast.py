"""Live readers: what they are given, and what they keep alive."""

from __future__ import annotations

import trio

from jobd.output.broadcast import BUFFER, BUFFER_BYTES, Broadcast
from jobd.worker.ports import Gap, Record, Source


def record(offset: int, size: int) -> Record:
    return Record(offset, Source.STDOUT, 1, bytes(size))


async def test_a_reader_is_given_no_more_than_it_wants() -> None:
    """A record that is longer is cut; nothing is lost or given twice."""
    broadcast = Broadcast()
    subscription = broadcast.subscribe()
    broadcast.publish(record(0, 10))
    broadcast.publish(record(10, 100))
    broadcast.end()
    got = []
    while records := await subscription.receive(30):
        sizes = [len(each.data) for each in records if isinstance(each, Record)]
        assert sum(sizes) <= 30
        got += [(each.offset, size) for each, size in zip(records, sizes, strict=True)]
    assert got == [(0, 10), (10, 30), (40, 30), (70, 30), (100, 10)]


async def test_a_reader_that_lags_lets_go_of_everything() -> None:
    """By number and by bytes; what it kept alive is on disk."""
    for size, fits in ((1, BUFFER), (BUFFER_BYTES // 2, 2)):
        broadcast = Broadcast()
        subscription = broadcast.subscribe()
        for number in range(fits):
            broadcast.publish(record(number * size, size))
        assert not subscription.lagging
        broadcast.publish(record(fits * size, size))
        assert subscription.lagging
        assert broadcast.readers == 0
        assert await subscription.receive(1000) == []


async def test_a_gap_in_front_is_told_to_a_reader_that_lags() -> None:
    """It would not be found again on disk behind the place where the reader is."""
    broadcast = Broadcast()
    subscription = broadcast.subscribe()
    broadcast.publish(Gap(0, 7))
    for number in range(BUFFER):
        broadcast.publish(record(number, 1))
    assert await subscription.receive(1000) == [Gap(0, 7)]
    assert await subscription.receive(1000) == []


async def test_who_is_left_behind_goes_on_from_the_disk() -> None:
    """All at once: so much was written that nobody is given it live."""
    broadcast = Broadcast()
    subscriptions = [broadcast.subscribe() for _ in range(3)]
    broadcast.publish(record(0, 10))
    broadcast.leave_behind()
    assert broadcast.readers == 0
    for subscription in subscriptions:
        assert subscription.lagging
        assert await subscription.receive(1000) == []


async def test_a_reader_waits_for_what_comes() -> None:
    """And is woken by a record, and by the end."""
    broadcast = Broadcast()
    subscription = broadcast.subscribe()
    got = []

    async def read() -> None:
        while records := await subscription.receive(1000):
            got.extend(records)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        broadcast.publish(record(0, 1))
        await trio.testing.wait_all_tasks_blocked()
        assert got == [record(0, 1)]
        broadcast.end()


async def test_what_comes_while_a_reader_waits_may_be_taken_at_once() -> None:
    """One after another, until something is not; what comes behind that is given with it."""
    broadcast = Broadcast()
    subscription = broadcast.subscribe()
    taken: list[int] = []

    def taker(event: Record | Gap) -> bool:
        if event.offset == 2:
            return False
        taken.append(event.offset)
        return True

    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            assert [each.offset for each in await subscription.receive(1000, taker)] == [2, 3]

        await trio.testing.wait_all_tasks_blocked()
        for offset in range(4):
            broadcast.publish(record(offset, 1))
    assert taken == [0, 1]


async def test_nothing_is_offered_to_a_reader_that_does_not_wait() -> None:
    """Not before, not behind what was queued for it, and not any more when it has given up."""
    broadcast = Broadcast()
    subscription = broadcast.subscribe()
    broadcast.publish(record(0, 1))

    def taker(event: Record | Gap) -> bool:
        raise AssertionError

    assert [each.offset for each in await subscription.receive(1000, taker)] == [0]
    with trio.move_on_after(0):
        await subscription.receive(1000, taker)
    broadcast.publish(record(1, 1))
    assert [each.offset for each in await subscription.receive(1000)] == [1]
