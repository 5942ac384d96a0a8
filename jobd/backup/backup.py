"""Taking a backup, while a jobd may be using the state directory, and without its noticing."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from api.errors import ConfigError
from jobd.backup.archive import OUTPUT, STORE, ArchiveWriter
from jobd.backup.tar import BackupError
from jobd.output.files import names_of
from jobd.storage.copy import copied, has, jobs_of, reading
from jobd.storage.sqlite import forget, update
from jobd.worker.job import Job


@dataclass(frozen=True, slots=True)
class Taken:
    """What is in a backup: jobs, how many of them had not ended, and bytes of output."""

    jobs: int
    live: int
    output: int


def back_up(state: Path, stream: BinaryIO, *, now: int, with_output: bool = True) -> Taken:
    """Write a backup of a state directory.

    The store is copied first, as it is between two of its transactions; then the output of the jobs that it names. What
    is deleted meanwhile is not in the backup, and neither are secrets: nothing is started from it.

    Args:
        stream: written from its beginning to its end.
        now: nanoseconds since the epoch.
        with_output: else what each job wrote counts as dropped.

    Raises:
        ConfigError: there is no store, it is damaged, or it is not this user's.
        BackupError: something cannot be read, or the stream not be written.
    """
    _check_ours(state)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="jobd-backup-") as name,
            reading(state / STORE) as live,
            ArchiveWriter(stream, now) as writer,
        ):
            copy = Path(name) / STORE
            with copied(live, copy) as db:
                source = _Source(live, writer, state / OUTPUT) if with_output else None
                taken = _go_through(db, source, state / OUTPUT)
            writer.add(STORE, copy)
            writer.finish()
    except OSError as exc:
        raise BackupError(f"{exc.filename or 'the backup'}: {exc.strerror or exc}") from exc
    except (sqlite3.Error, ValueError) as exc:
        raise BackupError(f"the job store {state / STORE} cannot be read: {exc}") from exc
    return taken


def _check_ours(state: Path) -> None:
    try:
        owner = state.stat().st_uid
        (state / STORE).lstat()
    except OSError as exc:
        raise ConfigError(f"{state} has no job store: {exc.strerror}") from exc
    if owner != os.geteuid():
        raise ConfigError(f"{state} belongs to uid {owner}: run this as that user (sudo -u '#{owner}' jobd backup …)")


def _go_through(db: sqlite3.Connection, source: _Source | None, root: Path) -> Taken:
    """See to each job of a copy of the store."""
    jobs = live = output = 0
    for job in jobs_of(db):
        if source is None:
            written = job.output_bytes if job.state.terminal else _written(root, job.id)
            kept = replace(job, output_bytes=0, dropped_bytes=job.dropped_bytes + written)
        else:
            kept = job
            size = source.add(job)
            if size is None:
                forget(db, job.id)
                continue
            output += size
        kept = replace(kept, spec=kept.spec.withheld)
        if kept != job:
            update(db, kept)
        jobs, live = jobs + 1, live + (not job.state.terminal)
    return Taken(jobs, live, output)


def _written(root: Path, job_id: str) -> int:
    """What a job that has not ended wrote until now: its record will say that when it has."""
    size = 0
    for _, data in names_of(root, job_id):
        with suppress(FileNotFoundError):  # it was deleted meanwhile
            size += (root / data).stat().st_size
    return size


class _Source:
    """Where output comes from, and where it goes."""

    def __init__(self, store: sqlite3.Connection, writer: ArchiveWriter, root: Path) -> None:
        self._store = store
        self._writer = writer
        self._root = root

    def add(self, job: Job) -> int | None:
        """Add a job's output; returns how many bytes that is, or None when the job was deleted meanwhile."""
        size = 0
        try:
            # The index first: of bytes that come in between it says nothing, and they are cut off by who restores it.
            for index, data in names_of(self._root, job.id):
                self._writer.add(f"{OUTPUT}/{index}", self._root / index)
                size += self._writer.add(f"{OUTPUT}/{data}", self._root / data)
        except FileNotFoundError:
            if has(self._store, job.id):
                raise
        return size if has(self._store, job.id) else None
