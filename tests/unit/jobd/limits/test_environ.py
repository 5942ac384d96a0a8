"""Marks in environments: what is found, and that nobody is waited for who does not let himself be read."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from structlog.typing import EventDict

from jobd.limits.environ import MAX_STUCK, MOST, Environments, environment_of, marks_in
from tests.support.containers import until
from tests.support.patience import patient


@pytest.mark.parametrize(
    ("environment", "marks"),
    [
        (b"", []),
        (b"A=1\0JOBD_JOB_ID=x\0B=2\0", [b"x"]),
        (b"JOBD_JOB_ID=x\0JOBD_JOB_ID=y\0", [b"x", b"y"]),
        (b"JOBD_JOB_ID=x", [b"x"]),
        (b"JOBD_JOB_ID=\0", [b""]),
        (b"A=JOBD_JOB_ID=x\0NOT_JOBD_JOB_ID=y\0JOBD_JOB_IDS=z\0", []),
        (b"\0" * 1_000_000 + b"JOBD_JOB_ID=x\0", [b"x"]),
    ],
)
def test_the_values_of_one_variable_are_found(environment: bytes, marks: list[bytes]) -> None:
    """However often it is there, and of that name alone."""
    assert list(marks_in(environment)) == marks


def test_no_more_is_read_than_the_beginning() -> None:
    """Somebody's can be many MiB; and nothing of who is not there."""
    assert environment_of(os.getpid())
    assert len(environment_of(os.getpid())) <= MOST
    assert environment_of(2**22 + 1) == b""


class World:
    """Processes of which some do not let themselves be read before the end of the block."""

    def __init__(self, stuck: set[int]) -> None:
        self.stuck = stuck
        self.mark = str(uuid.uuid4())
        self.asked: list[int] = []
        self.over = threading.Event()

    def read(self, pid: int) -> bytes:
        self.asked.append(pid)
        if pid in self.stuck:
            self.over.wait()
        return f"JOBD_JOB_ID={self.mark}-{pid}\0".encode()

    def marks(self, *pids: int) -> list[tuple[int, bytes]]:
        return [(pid, f"{self.mark}-{pid}".encode()) for pid in pids]


@contextmanager
def world(*stuck: int, patience: float = patient(0.3)) -> Iterator[tuple[World, Environments]]:
    made = World(set(stuck))
    environments = Environments(made.read, patience=patience)
    before = set(threading.enumerate())
    try:
        yield made, environments
    finally:
        made.over.set()
        for thread in set(threading.enumerate()) - before:
            thread.join()


def test_who_does_not_let_himself_be_read_costs_his_own_mark_only(log_guard: list[EventDict]) -> None:
    """He is waited for once, and said to be there; all others are read each time."""
    processes = [(pid, 0) for pid in range(1, 9)]
    with world(3, 8) as (made, environments):
        for _ in range(3):
            assert sorted(environments.marks(processes)) == made.marks(1, 2, 4, 5, 6, 7)
        assert made.asked.count(3) == made.asked.count(8) == 1
        told = [line["pid"] for line in log_guard if line["event"] == "the environment of a process cannot be read"]
        assert told == [3, 8]
    assert sorted(environments.marks(processes)) == made.marks(*range(1, 9))  # he does, by now


def test_another_process_of_that_number_is_read() -> None:
    """It is another one, since it began at another time."""
    with world(1) as (made, environments):
        assert list(environments.marks([(1, 10)])) == []
        made.stuck = set()
        assert list(environments.marks([(1, 10)])) == []
        assert list(environments.marks([(1, 11)])) == made.marks(1)


def test_threads_are_bounded() -> None:
    """With too many who do not answer, nobody is asked any more."""
    processes = [(pid, 0) for pid in range(1, 2 * MAX_STUCK)]
    with world(*range(1, 2 * MAX_STUCK), patience=0.02) as (made, environments):
        assert list(environments.marks(processes)) == []
        assert sum(each.name == "environments" for each in threading.enumerate()) == MAX_STUCK
        assert list(environments.marks([(1000, 0)])) == []
        until(lambda: len(made.asked) >= MAX_STUCK)  # a thread may be given up before it has begun
        assert len(made.asked) == MAX_STUCK
