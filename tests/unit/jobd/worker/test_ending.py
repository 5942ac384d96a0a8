"""The end of a job whose processes do not go, on a clock of its own."""

from __future__ import annotations

import time

import trio
import trio.testing

from jobd.worker.containment import Member, Receipt
from jobd.worker.ending import LATER, Ending


class Stubborn:
    """A process that does not go, as far as an ending needs one."""

    proof = "/proc"

    def __init__(self) -> None:
        self.kills = 0

    async def members(self) -> list[Member]:
        return [Member(1, 0, "stuck", False)]

    async def kill(self) -> None:
        self.kills += 1


async def test_what_was_given_up_is_killed_again(autojump_clock: trio.testing.MockClock) -> None:
    """Nobody waits for it any more, but when what held it lets go, or we were only too slow, it ends."""

    async def record(receipt: Receipt) -> None:
        await trio.lowlevel.checkpoint()

    process, ending = Stubborn(), Ending(10, time.time_ns, record, None)
    ending.want(0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ending.run, process)
        await ending.given_up.wait()
        assert ending.survived
        before = process.kills
        await trio.sleep(10 * LATER)
        assert 9 <= process.kills - before <= 11
        nursery.cancel_scope.cancel()
