"""Output that comes through another machine than the job's."""

from __future__ import annotations

import trio

from tests.support.patience import patient
from tests.support.pool import Pool
from tests.support.refusals import stdout_of

LINES = b"1\n2\n3\n4\n5\n"
MUCH = 1_000_000
"""Bytes, several times what a stream between machines may hold."""


async def test_a_few_lines_and_then_much_come_whole_through_another_machine(pool: Pool) -> None:
    """Live, and when it has ended: with lines before it, what is much does not fit into what is left of a window, so a
    message stands across its end."""
    await pool.start("m1", worker=False)
    await pool.start("m2")
    command = f"for i in 1 2 3 4 5; do echo $i; sleep 0.1; done; head -c {MUCH} /dev/zero"
    async with pool.client("m1") as through, pool.client("m2") as direct:
        job = await through.start(["sh", "-c", command])
        with trio.fail_after(patient(10)):
            live = await stdout_of(through, job.id)
        await through.wait(job.id)
        for client in (direct, through):
            with trio.fail_after(patient(10)):
                assert await stdout_of(client, job.id) == live == LINES + bytes(MUCH)
