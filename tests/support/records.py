"""State directories with many jobs that have ended."""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import replace
from pathlib import Path

from jobd.storage import sqlite
from jobd.storage.schema import open_database
from jobd.worker.job import Job, JobSpec, Reason
from jobd.worker.lifecycle import Event, State

SECOND = 1_000_000_000


def make_store(state: Path, count: int) -> Path:
    """Write the store of a daemon that has run ``count`` jobs, a second apart until now; returns ``state``."""
    state.mkdir(mode=0o700)
    connection = open_database(state / "jobs.sqlite3")
    begin = time.time_ns() - count * SECOND
    connection.execute("BEGIN")
    for number in range(count):
        sqlite._insert(connection, _ended(number, begin + number * SECOND))
    connection.execute("COMMIT")
    connection.close()
    return state


def _ended(number: int, at: int) -> Job:
    spec = JobSpec(("/usr/bin/make", "-j2", f"target-{number}"), f"build-{number}", {"CC": "gcc"}, "/srv/project")
    job = Job(str(uuid.uuid4()), spec, State.PENDING, at, started_by="alice", request_id=str(uuid.uuid4()))
    job = job.moved(Event.ASSIGNED, worker="local", launcher=f"{uuid.uuid4()}/{os.getpid()}.{at}")
    job = job.moved(Event.LAUNCHED, pid=1000 + number % 30_000, started_at=at)
    code = number % 2
    ended = job.moved(Event.EXITED_NONZERO if code else Event.EXITED_ZERO, wait_status=code << 8, ended_at=at + SECOND)
    return replace(ended, reason=Reason.EXITED, message=f"exited with code {code}", output_bytes=number * 10)
