"""Looks at all processes of the machine: shared by those who ask at the same time, never older than the question."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from jobd.limits import processes


class Watched:
    """In place of a snapshot: counts, and each takes until it is let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.go_on = threading.Semaphore(0)

    def __call__(self) -> int:
        self.begun += 1
        number = self.begun
        assert self.go_on.acquire(timeout=10)
        return number


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
    watched, answers = Watched(), list[object]()
    monkeypatch.setattr(processes, "Snapshot", watched)
    looks = processes._Looks()
    threads = [threading.Thread(target=lambda: answers.append(looks.look())) for _ in range(6)]
    threads[0].start()
    assert all(asked.acquire(timeout=10) for _ in range(2))  # it has asked, and looks
    for thread in threads[1:]:
        thread.start()
    assert all(asked.acquire(timeout=10) for _ in range(5))  # all the others have asked
    watched.go_on.release(2)
    for thread in threads:
        thread.join(10)
    assert sorted(answers, key=str) == [1, 2, 2, 2, 2, 2]
    assert watched.begun == 2


def test_who_asks_later_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that is over says nothing of what came after it."""
    watched = Watched()
    watched.go_on.release(2)
    monkeypatch.setattr(processes, "Snapshot", watched)
    looks = processes._Looks()
    assert [looks.look(), looks.look()] == [1, 2]
