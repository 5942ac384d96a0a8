"""Which worker a job goes to: a pure function."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """A worker as placement sees it."""

    name: str
    slots: int
    running: int


def choose(workers: Sequence[Load], *, spread: str = "") -> str | None:
    """The worker with the smallest part of its slots taken, or None when none is free.

    Args:
        spread: a job's id: of equals one that depends on it is taken, and not the first; so that brokers who do not
            know of each other's choices choose the same for the same job, and different ones for different jobs.
    """
    free = [(worker.running / worker.slots, worker.name) for worker in workers if worker.running < worker.slots]
    if not free:
        return None
    least, first = min(free, key=lambda each: each[0])
    if not spread:
        return first
    equals = sorted(name for load, name in free if load == least)
    return equals[zlib.crc32(spread.encode()) % len(equals)]
