"""The end of a job whose processes do not go, on a clock of its own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing
from structlog.typing import EventDict

from jobd.worker.containment import Member, Receipt
from jobd.worker.ending import LATER, Ending


class Stubborn:
    """A process that does not go before it is let, as far as an ending needs one.

    Args:
        look: seconds that a look at it takes.
    """

    proof = "/proc"
    pid = main_pid = 1

    def __init__(self, look: float = 0) -> None:
        self.kills = 0
        self.there = True
        self._look = look

    async def members(self) -> list[Member]:
        seen = [Member(1, 0, "stuck", False)] if self.there else []
        await trio.sleep(self._look)
        return seen

    async def is_empty(self) -> bool:
        return not await self.members()

    async def kill(self) -> None:
        self.kills += 1


class Mortal(Stubborn):
    """One that dies of the first SIGKILL."""

    async def kill(self) -> None:
        await super().kill()
        self.there = False


async def record(receipt: Receipt) -> None:
    await trio.lowlevel.checkpoint()


@asynccontextmanager
async def ending(process: Stubborn) -> AsyncIterator[Ending]:
    """Its end, which gives it ten seconds."""
    ending = Ending(10, time.time_ns, record, None)
    ending.want(0)
    async with trio.open_nursery() as nursery:
        ending.watch(nursery, process)
        yield ending
        nursery.cancel_scope.cancel()


async def test_what_was_given_up_is_killed_again(
    autojump_clock: trio.testing.MockClock, errors_expected: list[EventDict]
) -> None:
    """Nobody waits for it any more, but when what held it lets go, it ends."""
    process = Stubborn()
    async with ending(process) as end:
        await end.given_up.wait()
        assert 10 <= trio.current_time() < 10.2
        assert end.survived
        before = process.kills
        await trio.sleep(10 * LATER)
        assert 9 <= process.kills - before <= 11


async def test_only_what_is_seen_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    """On a machine where each look takes longer than the patience, who dies of SIGKILL is not said to be there."""
    process = Mortal(look=30)
    async with ending(process) as end:
        await end.clear(process, 0)
        assert not end.survived
        assert not end.given_up.is_set()
        receipt = await end.receipt(process)
        assert receipt is not None
        assert receipt.empty
        assert receipt.found == 1


async def test_what_a_slow_look_sees_is_given_up(
    autojump_clock: trio.testing.MockClock, errors_expected: list[EventDict]
) -> None:
    """Though every look takes longer than the patience."""
    process = Stubborn(look=30)
    async with ending(process) as end:
        await end.given_up.wait()
        assert end.survived
        receipt = await end.receipt(process)
        assert receipt is not None
        assert not receipt.empty


async def test_when_the_main_process_was_let_go_the_others_get_their_time(
    autojump_clock: trio.testing.MockClock, errors_expected: list[EventDict]
) -> None:
    """They die a moment after it: the job does not end as one of whom somebody is left."""
    process = Stubborn()
    async with ending(process) as end, trio.open_nursery() as nursery:
        await end.given_up.wait()

        async def let_go() -> None:
            await trio.sleep(5)
            process.there = False

        nursery.start_soon(let_go)
        await end.clear(process, 0)
        assert not process.there
        assert not end.survived


async def test_who_does_not_go_with_the_main_process_is_given_up_again(
    autojump_clock: trio.testing.MockClock, errors_expected: list[EventDict]
) -> None:
    """After as long as before; and the job has not ended before they have, however long that takes."""
    process = Stubborn()
    async with ending(process) as end, trio.open_nursery() as nursery:
        await end.given_up.wait()
        begun = trio.current_time()
        cleared = trio.Event()

        async def clear() -> None:
            await end.clear(process, 0)
            cleared.set()

        nursery.start_soon(clear)
        await trio.sleep(1)
        await end.given_up.wait()
        assert 10 <= trio.current_time() - begun < 10 + 2 * LATER
        assert end.survived
        await trio.sleep(10_000)
        assert not cleared.is_set()
        process.there = False
        await cleared.wait()
        assert not end.survived
