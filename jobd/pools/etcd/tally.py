"""How many jobs each principal has in the pool that have not ended."""

from __future__ import annotations

from collections import Counter

from jobd.pools.etcd.keys import Keys
from jobd.pools.etcd.steps import Found


class Tally:
    """Kept by what is heard of jobs. What is brought in here counts at once; what other brokers bring in at the same
    moment, a moment later: so many more than its quota a principal can have."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._jobs: dict[str, str] = {}
        self._unheard: set[str] = set()  # those of them that were brought in here, and that is all we know
        self._counts: Counter[str] = Counter()

    def of(self, principal: str) -> int:
        """Its jobs that have not ended."""
        return self._counts[principal]

    def brought(self, job_id: str, principal: str) -> None:
        """A job is being recorded."""
        self._unheard.add(job_id)
        self._set(job_id, principal)

    def refused(self, job_id: str) -> None:
        """It was not, after all, or nobody knows: what is heard of it is what counts."""
        if job_id in self._unheard:
            self._unheard.remove(job_id)
            self._set(job_id, "")

    def heard(self, key: bytes, found: Found | None) -> None:
        """A job, by the key of its state; None when it is gone, or its record damaged."""
        job_id = self._keys.job_of(key)
        self._unheard.discard(job_id)
        self._set(job_id, found.state.by if found and not found.ended else "")

    def _set(self, job_id: str, principal: str) -> None:
        before = self._jobs.pop(job_id, "")
        if principal:
            self._jobs[job_id] = principal
        if before != principal:
            self._counts[principal] += 1
            self._counts[before] -= 1
            for each in (before, principal):
                if not each or not self._counts[each]:
                    del self._counts[each]
