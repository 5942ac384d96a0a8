"""A job that waits is handed out and begun, or waits on: whatever ends meanwhile."""

from __future__ import annotations

from pathlib import Path

import trio

from jobd.worker.job import JobSpec
from jobd.worker.lifecycle import State
from tests.support.broker import Make
from tests.support.jobs import shell


async def test_it_waits_on_when_all_is_cancelled_from_outside(make: Make) -> None:
    """A second signal cancels everything at once: jobs end, while some call's shielded end holds the broker's block."""
    held = trio.Event()
    ids: list[str] = []

    async def serve() -> None:
        async with make(slots=1) as broker:
            first = await broker.start(JobSpec(("sleep", "60")), by="ada")
            second = await broker.start(JobSpec(("true",)), by="ada")
            ids.extend([first.id, second.id])
            assert second.state is State.PENDING
            with trio.CancelScope(shield=True):  # as a call that records something
                held.set()
                await broker.wait([first.id], any_of_them=False)
                await trio.testing.wait_all_tasks_blocked()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await held.wait()
        nursery.cancel_scope.cancel()
    async with make(slots=1) as broker:
        [ended] = await broker.wait([ids[1]], any_of_them=False)
        assert (ended.state, ended.reason) == (State.SUCCEEDED, "EXITED"), ended.message


async def test_it_waits_on_when_the_broker_ends_before_its_start_is_recorded(make: Make, tmp_path: Path) -> None:
    """The next broker finds it waiting, whichever launcher that has."""
    gate = tmp_path / "gate"
    async with make(slots=1) as broker:
        await broker.start(shell(f"until test -e {gate}; do sleep 0.01; done"), by="ada")
        second = await broker.start(JobSpec(("true",)), by="ada")
        gate.touch()
        entry = await broker.registry.find(second.id)
        await entry.cell.wait_until(lambda job: job.state is not State.PENDING)
        assert entry.cell.job.state is State.STARTING  # its commit is under way
    async with make(slots=1) as broker:
        [ended] = await broker.wait([second.id], any_of_them=False)
        assert ended.state is State.SUCCEEDED, ended.message
