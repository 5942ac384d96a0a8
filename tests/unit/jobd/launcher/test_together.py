"""Short work of many tasks: in the loop, or in a thread, together."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import trio

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
    """Whatever the reason is, the loop is not to wait for it again and again."""
    assert await in_turn(partial(clock.work, together.LONG * 2), prompt=True) == threading.get_ident()
    assert await in_turn(partial(clock.work, together.PAUSE / 2), prompt=True) != threading.get_ident()
    clock.now += together.LONG * 2 * together.SHARE
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


async def test_what_is_asked_for_meanwhile_is_done_together() -> None:
    """One hop to a thread for all of it."""
    hold, threads = threading.Event(), list[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_turn, hold.wait)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(10):
            nursery.start_soon(in_turn, lambda: threads.append(threading.get_ident()))
        await trio.testing.wait_all_tasks_blocked()
        hold.set()
    assert len(threads) == 10
    assert len(set(threads)) == 1


async def test_the_longer_it_was_the_longer_it_is_not_done_in_the_loop(clock: Clock) -> None:
    assert await in_turn(partial(clock.work, 5.0), prompt=True) == threading.get_ident()
    clock.now += 10 * together.PAUSE
    assert await in_turn(partial(clock.work, 0.0), prompt=True) != threading.get_ident()
