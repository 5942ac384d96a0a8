"""A job as the row that the store keeps, and back.

The row has the whole job as JSON, and beside it what is searched for. A sum over all of it shows what SQLite cannot:
that a text inside an intact page is another one than was written.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Final

from jobd.worker.facts import facts_of, job_of
from jobd.worker.job import Job

SUMMED: Final = "id, state, principal, request_id, ended_at, output_bytes, record"
COLUMNS: Final = f"{SUMMED}, sum"

Column = str | int | None
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))


def row_of(job: Job) -> list[Column]:
    """The values for :data:`COLUMNS`."""
    record = dump(job)
    summed = [job.id, job.state, job.started_by, job.request_id or None, job.ended_at, job.output_bytes, record]
    return [*summed, sum_of(*summed)]


def from_row(row: Sequence[Column]) -> Job:
    """The job for what :func:`row_of` gave.

    Raises:
        ValueError: the row is another one than was written.
    """
    *summed, sum_ = row
    if sum_ != sum_of(*summed):
        raise ValueError(f"the record of job {summed[0]!a} is damaged")
    return load(str(summed[-1]))


def sum_of(*values: Column) -> int:
    """The CRC-32 of a row; the store calls it as a function of SQL, too."""
    return zlib.crc32("\0".join("" if value is None else str(value) for value in values).encode())


def dump(job: Job) -> str:
    """The text for a job."""
    return _ENCODER.encode(facts_of(job))


def load(text: str) -> Job:
    """The job for a text.

    Raises:
        ValueError: the text is not what :func:`dump` makes.
    """
    facts = json.loads(text)
    if not isinstance(facts, dict):
        raise ValueError("a damaged job record: not an object")  # noqa: TRY004 # what is wrong is the value of a text
    return job_of(facts)
