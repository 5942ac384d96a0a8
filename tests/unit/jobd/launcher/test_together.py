"""Short work of many tasks: in the loop, or in a thread, together."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import trio
import trio.testing

from jobd.launcher import together
from jobd.launcher.together import in_turn


class Clock:
    """Time as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(together, "perf_counter", lambda: self.now)

    def work(self, seconds: float) -> int:
        """Take so long; returns the thread that it was done in."""
        self.now += seconds
        return threading.get_ident()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def test_prompt_work_is_done_in_the_loop(clock: Clock) -> None:
    assert await in_turn(partial(clock.work, together.LONG / 2), prompt=True) == threading.get_ident()


async def test_what_was_long_is_done_in_a_thread_for_a_while(clock: Clock) -> None:
    """Whatever the reason is, the loop is not to wait for it again and again: for a hundredth of its time."""
    assert await in_turn(partial(clock.work, together.LONG * 2), prompt=True) == threading.get_ident()
    clock.now += together.LONG * 2 * together.SHARE - 0.25
    assert await in_turn(partial(clock.work, 0.125), prompt=True) != threading.get_ident()
    clock.now += 0.25
    assert await in_turn(partial(clock.work, 0.0), prompt=True) == threading.get_ident()


async def test_other_work_is_done_in_a_thread(clock: Clock) -> None:
    assert await in_turn(partial(clock.work, 0.0)) != threading.get_ident()


@pytest.mark.parametrize("prompt", [True, False])
async def test_what_it_raises_is_raised(prompt: bool) -> None:
    def fail() -> None:
        raise OSError("the reason")

    with pytest.raises(OSError, match="the reason"):
        await in_turn(fail, prompt=prompt)


@pytest.mark.parametrize("prompt", [True, False])
async def test_it_is_not_begun_by_who_is_cancelled(prompt: bool) -> None:
    done: list[bool] = []
    with trio.move_on_after(0) as scope:
        await in_turn(partial(done.append, True), prompt=prompt)
    assert scope.cancelled_caught
    assert done == []


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
