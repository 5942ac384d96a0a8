"""Which worker a job goes to: a pure function."""

from __future__ import annotations

import hashlib
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


def choose(workers: Sequence[Load], *, spread: str = "") -> str | None:
    """The worker with the smallest part of its slots taken, or None when none is free.

    Args:
        spread: a job's id: of equals one that depends on it is taken, and not the first; so that brokers who do not
            know of each other's choices choose the same for the same job, and different ones for different jobs.
    """
    free = [worker for worker in workers if worker.free > 0]
    if not free:
        return None
    least = min(worker.running / worker.slots for worker in free)
    equals = [worker for worker in free if worker.running / worker.slots == least]
    return max(equals, key=lambda worker: _weight(spread, worker.name)).name if spread else equals[0].name


def _weight(job: str, worker: str) -> bytes:
    """Rendezvous hashing (Thaler and Ravishankar, 1998)."""
    return hashlib.blake2b(f"{job}/{worker}".encode(), digest_size=8).digest()
