"""Work of many tasks is done in one thread, and each has its own result."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from jobd.launcher.together import in_turn


async def test_what_is_asked_for_meanwhile_is_done_in_one_turn() -> None:
    """In the order of asking, by one thread after another; each task has what its own work gave, or raised."""
    begun, go_on = trio.Event(), threading.Event()
    done: list[int] = []
    results: dict[int, int] = {}

    def first() -> None:
        trio.from_thread.run_sync(begun.set)
        go_on.wait()

    def work(number: int) -> int:
        done.append(number)
        if number == 2:
            raise ValueError
        return number * 10

    async def ask(number: int) -> None:
        try:
            results[number] = await in_turn(lambda: work(number))
        except ValueError:
            results[number] = -1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_turn, first)
        await begun.wait()
        for number in range(5):
            nursery.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
        go_on.set()
    assert done == [0, 1, 2, 3, 4]
    assert results == {0: 0, 1: 10, 2: -1, 3: 30, 4: 40}


async def test_where_no_thread_can_be_had_each_that_asked_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for what is not done; what is asked for later is."""
    refused: list[int] = []

    async def no_thread(run: object, *args: object) -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("can't start new thread")

    async def ask(number: int) -> None:
        with pytest.raises(RuntimeError, match="new thread"):
            await in_turn(lambda: None)
        refused.append(number)

    with monkeypatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", no_thread)
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(ask, number)
    assert sorted(refused) == [0, 1, 2]
    assert await in_turn(lambda: "done") == "done"


async def test_what_was_asked_for_is_done_though_it_is_cancelled() -> None:
    """Whoever makes something has it; before it is asked for, it is not."""
    begun, go_on = trio.Event(), threading.Event()
    results = []

    def first() -> None:
        trio.from_thread.run_sync(begun.set)
        go_on.wait()

    async def ask(scope: trio.CancelScope) -> None:
        with scope:
            results.append(await in_turn(lambda: "made"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_turn, first)
        await begun.wait()
        scope = trio.CancelScope()
        nursery.start_soon(ask, scope)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        go_on.set()
    assert results == ["made"]
    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(trio.Cancelled):
            await in_turn(lambda: results.append("never"))
    assert results == ["made"]
