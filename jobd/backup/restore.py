"""Making a state directory of a backup."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from api.errors import ConfigError
from jobd.backup.archive import OUTPUT, STORE, extract, sync
from jobd.backup.tar import BackupError
from jobd.output.log import LogStore
from jobd.storage.directory import RESTORING, hold_directory
from jobd.storage.sqlite import open_store
from jobd.worker.errors import StoreError
from jobd.worker.job import Job, Reason
from jobd.worker.lifecycle import Event

LOCK: Final = "lock"


@dataclass(frozen=True, slots=True)
class Restored:
    """When the backup was made (nanoseconds since the epoch), and how many of its jobs are lost now."""

    made_at: int
    lost: int


async def restore(stream: BinaryIO, state: Path, *, now: int) -> Restored:
    """Fill a state directory, which is empty or not there yet. All of it is in its place, or nothing.

    Args:
        now: nanoseconds since the epoch: when the jobs that had not ended are said to have ended.

    Raises:
        ConfigError: the directory is in use, is not empty, or cannot be used.
        BackupError: what there is, is no backup, is not whole, or cannot be written.
    """
    with hold_directory(state):
        if strangers := _strangers_in(state):
            raise ConfigError(f"{state} is not empty (it has {strangers[0]!a}): name a directory that is, or a new one")
        try:
            with _room(state / RESTORING) as room:
                made_at = extract(stream, room)
                lost = await _end_jobs(room, made_at, now)
                # The store is what makes a state directory of it.
                for name in (OUTPUT, STORE):
                    if (room / name).exists():
                        (room / name).rename(state / name)
                sync(state)
        except OSError as exc:
            raise BackupError(f"{exc.filename or state}: {exc.strerror or exc}") from exc
        except StoreError as exc:
            raise BackupError(str(exc)) from exc
    return Restored(made_at, lost)


def _strangers_in(state: Path) -> list[str]:
    return sorted({path.name for path in state.iterdir()} - {LOCK})


@contextmanager
def _room(path: Path) -> Iterator[Path]:
    """A directory that is gone afterwards."""
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


async def _end_jobs(room: Path, made_at: int, now: int) -> int:
    """See that no job goes on: what became of it since then is not known, and it may not run twice."""
    logs = LogStore(room / OUTPUT)
    async with open_store(room / STORE) as store:
        live = await store.live()
        for job in live:
            recorded, dropped = await logs.recover(job.id)
            # Of what was left out, the record alone knows.
            await store.commit(_lost(job, made_at, now, recorded, max(dropped, job.dropped_bytes)))
    return len(live)


def _lost(job: Job, made_at: int, now: int, recorded: int, dropped: int) -> Job:
    when = datetime.fromtimestamp(made_at // 10**9, UTC).isoformat()
    return job.moved(
        Event.UNTRACEABLE,
        stopping=False,
        ended_at=now,
        output_bytes=recorded,
        dropped_bytes=dropped,
        reason=Reason.RESTORED,
        message=f"it had not ended when the backup of {when} was taken, from which jobd was restored",
        receipt=None,
    )
