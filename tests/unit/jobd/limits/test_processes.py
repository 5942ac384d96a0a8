"""Looks at all processes of the machine: shared by those who ask at the same time, never older than the question."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from jobd.limits import processes
from tests.support.patience import patient


@dataclass
class Taken:
    """One look, by its number."""

    number: int
    begun: int


class Watched:
    """In place of a snapshot: counts, and each takes until it is let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.go_on = threading.Semaphore(0)

    def __call__(self) -> Taken:
        self.begun += 1
        taken = Taken(self.begun, processes.time.monotonic_ns())
        assert self.go_on.acquire(timeout=patient(10))
        return taken


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    """Released each time that somebody asks, or begins, to look."""
    semaphore = threading.Semaphore(0)

    def clock() -> int:
        now = time.perf_counter_ns()
        semaphore.release()
        return now

    monkeypatch.setattr(processes.time, "monotonic_ns", clock)
    return semaphore


def test_those_who_ask_during_a_look_share_the_next_one(
    monkeypatch: pytest.MonkeyPatch, asked: threading.Semaphore
) -> None:
    """Not the one under way: it may have passed what they ask for."""
    watched, answers = Watched(), list[int]()
    monkeypatch.setattr(processes, "Snapshot", watched)
    looks = processes._Looks()
    threads = [threading.Thread(target=lambda: answers.append(looks.look().number)) for _ in range(6)]
    threads[0].start()
    assert all(asked.acquire(timeout=patient(10)) for _ in range(2))  # it has asked, and looks
    for thread in threads[1:]:
        thread.start()
    assert all(asked.acquire(timeout=patient(10)) for _ in range(5))  # all the others have asked
    watched.go_on.release(2)
    for thread in threads:
        thread.join(10)
    assert sorted(answers) == [1, 2, 2, 2, 2, 2]
    assert watched.begun == 2


def test_who_asks_later_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that is over says nothing of what came after it."""
    watched = Watched()
    watched.go_on.release(2)
    monkeypatch.setattr(processes, "Snapshot", watched)
    looks = processes._Looks()
    assert [looks.look().number, looks.look().number] == [1, 2]


async def test_tasks_that_ask_together_share_a_look_and_wait_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one under way is for the first alone, who may see a later one; the next one for all others, however many
    threads there may be."""
    watched, answers = Watched(), list[int]()
    monkeypatch.setattr(processes, "Snapshot", watched)
    looks = processes._Looks()

    async def ask() -> None:
        async with looks.together():
            answers.append((await trio.to_thread.run_sync(looks.look)).number)

    with trio.fail_after(patient(10)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            while not watched.begun:
                await trio.sleep(0.001)
            for _ in range(100):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 1
            watched.go_on.release(2)
    assert (watched.begun, len(answers)) == (2, 101)
    assert sorted(answers)[1:] == [2] * 100


async def test_a_shared_look_is_for_the_first_question_in_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks a second time wants to see what has changed, and so does whoever looks after the block."""
    watched = Watched()
    watched.go_on.release(10)
    monkeypatch.setattr(processes, "Snapshot", watched)
    looks = processes._Looks()

    def twice() -> list[int]:
        return [looks.look().number, looks.look().number]

    with trio.fail_after(patient(10)):
        async with looks.together():
            assert await trio.to_thread.run_sync(twice) == [1, 2]
        assert (await trio.to_thread.run_sync(looks.look)).number == 3


async def test_a_task_that_is_cancelled_keeps_nobody_from_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its turn goes to the next one."""
    watched = Watched()
    monkeypatch.setattr(processes, "Snapshot", watched)
    looks = processes._Looks()
    with trio.fail_after(patient(10)):
        async with trio.open_nursery() as nursery:

            async def ask(*, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
                with trio.CancelScope() as scope:
                    task_status.started(scope)
                    async with looks.together():
                        pass

            first: trio.CancelScope = await nursery.start(ask)
            while not watched.begun:
                await trio.sleep(0.001)
            second: trio.CancelScope = await nursery.start(ask)
            await nursery.start(ask)
            await trio.testing.wait_all_tasks_blocked()
            first.cancel()
            second.cancel()
            watched.go_on.release(2)
    assert watched.begun == 2
