"""Which worker a job goes to: a pure function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """A worker as placement sees it."""

    name: str
    slots: int
    running: int

    @property
    def free(self) -> int:
        return self.slots - self.running


def choose(workers: Sequence[Load]) -> str | None:
    """The worker with the smallest part of its slots taken (the first of equals), or None when none is free."""
    free = [worker for worker in workers if worker.free > 0]
    return min(free, key=lambda worker: worker.running / worker.slots).name if free else None
