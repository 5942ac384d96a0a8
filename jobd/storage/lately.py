"""Jobs that have ended and were asked for lately: their records change no more, and asking again costs no read."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from jobd.worker.job import Job

MOST: Final = 64
LARGEST: Final = 8 * 1024
"""Bytes of the longest record that is kept: 64 of them are half a MiB."""


class Lately:
    """Whoever changes a record says so first (:meth:`changed`), and is right from then on.

    What is read while a record changes may be what it was before. So a read says when it began (:attr:`changes`).
    """

    def __init__(self) -> None:
        self.changes = 0
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def get(self, job_id: str) -> Job | None:
        """The job with this id, whole, if it is here. What is asked for stays longest."""
        job = self._jobs.get(job_id)
        if job is not None:
            self._jobs.move_to_end(job_id)
        return job

    def note(self, job: Job, size: int, changes: int) -> None:
        """A job was read.

        Args:
            size: of its record, in bytes.
            changes: how many there had been when it was asked for.
        """
        if job.state.terminal and size <= LARGEST and changes == self.changes:
            self._jobs[job.id] = job
            self._jobs.move_to_end(job.id)
            if len(self._jobs) > MOST:
                self._jobs.popitem(last=False)

    def changed(self, job_id: str) -> None:
        """The record of this job is about to change, or to go."""
        self.changes += 1
        self._jobs.pop(job_id, None)
