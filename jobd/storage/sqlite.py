"""The job store: SQLite behind one thread, with group commit.

Whatever is asked while a commit is under way goes into the next one together: the cost of making things durable
is shared by all who wait for it.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import outcome
import structlog
import trio

from jobd.storage import records
from jobd.storage.lately import Lately
from jobd.storage.schema import open_database
from jobd.worker.errors import RecordDamagedError, StoreError
from jobd.worker.job import Ended, Job
from jobd.worker.lifecycle import State

log = structlog.get_logger(__name__)

T = TypeVar("T")
GROUP: Final = 256
"""The most operations in one commit."""
# Only names of our own and question marks are put into these.
_SELECT: Final = f"SELECT {records.COLUMNS} FROM jobs"  # noqa: S608 # the same
_INSERT: Final = f"INSERT INTO jobs ({records.COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 # the same
_UPDATE: Final = "UPDATE jobs SET state = ?, ended_at = ?, output_bytes = ?, record = ?, sum = ? WHERE id = ?"
_LIVE: Final = (State.PENDING, State.STARTING, State.RUNNING)


@dataclass(eq=False)
class _Operation(Generic[T]):
    """What somebody waits for.

    Attributes:
        run: what to do. Where it raises ValueError it has written nothing; where sqlite3.IntegrityError, nothing that
            SQLite has not undone.
        writes: how many statements of it write.
    """

    run: Callable[[sqlite3.Connection], T]
    writes: int = 0
    result: outcome.Outcome[T] | None = None
    done: trio.Event = field(default_factory=trio.Event)


class SqliteStore:
    """Made by :func:`open_store`.

    Attributes:
        failing: the last attempt to write failed.
        on_commit: told of the seconds that each commit took; called in the store's own thread.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._file = path.stat()
        self.failing = False
        self.on_commit: Callable[[float], None] | None = None
        self._lately = Lately()
        self._queue: queue.SimpleQueue[_Operation[Any] | None] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()

    # ---- what can be asked

    async def insert(self, job: Job) -> Job:
        """Record a new job durably. When its request_id was used before, the job of then is returned.

        Raises:
            StoreError: it could not be recorded.
        """
        self._lately.changed(job.id)
        return await self._ask(lambda db: _insert(db, job), writes=1)

    def note(self, job: Job) -> None:
        """Record a change with the next commit."""
        self._lately.changed(job.id)
        self._queue.put(_Operation(partial(update, job=job), writes=1))

    async def settle(self) -> None:
        """Wait until what was noted before is durable, or could not be made so.

        Raises:
            StoreError: the store cannot be used.
        """
        await self._ask(lambda _: None)

    async def commit(self, job: Job) -> None:
        """Record a change durably.

        Raises:
            StoreError: it could not be recorded.
        """
        self._lately.changed(job.id)
        await self._ask(lambda db: update(db, job), writes=1)

    async def get(self, job_id: str) -> Job | None:
        """The job with this id."""
        found = await self.starting_with(job_id)
        return found[0] if found else None

    async def requested(self, request_id: str) -> Job | None:
        """The job that a request_id stands for, if it does."""
        return await self._ask(lambda db: _requested(db, request_id))

    def lately(self, job_id: str) -> Job | None:
        """The job with this id, if it has ended and was asked for lately. Never waits."""
        return self._lately.get(job_id)

    async def starting_with(self, prefix: str) -> list[Job]:
        """At most two of the jobs whose ids begin like this."""
        query = f"{_SELECT} WHERE id >= ? AND id < ? ORDER BY id LIMIT 2"
        changes = self._lately.changes
        found = await self._ask(lambda db: _sized(db, query, (prefix, prefix + "\x7f")))
        for job, size in found:
            self._lately.note(job, size, changes)
        return [job for job, _ in found]

    async def live(self) -> list[Job]:
        """Every job that has not ended, oldest first."""
        query = f"{_SELECT} WHERE state IN {_marks(_LIVE)} ORDER BY seq"
        return await self._ask(lambda db: _jobs(db, query, _LIVE))

    async def page(self, *, before: int, states: Sequence[State], size: int) -> list[tuple[int, Job]]:
        """Up to ``size`` jobs with their sequence numbers, newest first, from below ``before`` (0: from the newest)."""
        where = f"AND state IN {_marks(states)}" if states else ""
        query = f"SELECT seq, {records.COLUMNS} FROM jobs WHERE (? = 0 OR seq < ?) {where} ORDER BY seq DESC LIMIT ?"  # noqa: S608 # the same
        values = (before, before, *states, size)
        return await self._ask(lambda db: [(seq, records.from_row(r)) for seq, *r in db.execute(query, values)])

    async def delete(self, job_id: str) -> None:
        """Forget a job, and its request_id with it; remember that its output is to go too (:meth:`deletions`).

        Raises:
            StoreError: it could not be.
        """
        self._lately.changed(job_id)
        await self._ask(lambda db: forget(db, job_id), writes=2)

    async def deletions(self) -> list[str]:
        """Jobs that were forgotten, and whose output may still be there."""
        return await self._ask(lambda db: [job_id for (job_id,) in db.execute("SELECT id FROM deletions")])

    def deleted(self, job_id: str) -> None:
        """The output of a forgotten job is gone: nothing needs to be remembered of it."""
        query = "DELETE FROM deletions WHERE id = ?"
        self._queue.put(_Operation(lambda db: db.execute(query, (job_id,)).close(), writes=1))

    async def ended(self, limit: int) -> list[Ended]:
        """Jobs that have ended, the one that ended first foremost."""
        query = "SELECT id, ended_at, output_bytes FROM jobs WHERE ended_at IS NOT NULL ORDER BY ended_at, seq LIMIT ?"
        return await self._ask(lambda db: [Ended(*row) for row in db.execute(query, (limit,))])

    async def totals(self) -> tuple[int, int]:
        """How many jobs have ended, and the bytes of output that they have."""
        query = "SELECT count(*), coalesce(sum(output_bytes), 0) FROM jobs WHERE ended_at IS NOT NULL"
        count, size = await self._ask(lambda db: db.execute(query).fetchone())
        return count, size

    async def _ask(self, run: Callable[[sqlite3.Connection], T], *, writes: int = 0) -> T:
        operation = _Operation(run, writes)
        self._queue.put(operation)
        await operation.done.wait()
        assert operation.result is not None
        try:
            return operation.result.unwrap()
        except sqlite3.Error as exc:
            raise StoreError(f"the job store cannot be used: {exc}") from exc
        except ValueError as exc:
            log.error("a job's record is damaged", error=str(exc))
            raise RecordDamagedError from exc

    # ---- the thread

    def serve(self) -> None:
        """Run operations until told to end. Blocks: this is the store's own thread."""
        while True:
            first = self._queue.get()
            if first is None:
                return
            group, last = self._group(first)
            self._commit(group)
            self._token.run_sync_soon(_tell, group)
            if last:
                return

    def _group(self, first: _Operation[Any]) -> tuple[list[_Operation[Any]], bool]:
        group = [first]
        while len(group) < GROUP:
            try:
                following = self._queue.get_nowait()
            except queue.Empty:
                break
            if following is None:
                return group, True
            group.append(following)
        return group, False

    def _commit(self, group: list[_Operation[Any]]) -> None:
        try:
            self._transact(group)
        except sqlite3.Error as exc:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if len(group) > 1:  # on a full disk one may work where many do not, and reading does
                for operation in group:
                    if operation.result is None:
                        self._commit([operation])
                return
            if not self.failing:
                log.error("the job store cannot be written", error=str(exc))
            self.failing = True
            group[0].result = outcome.Error(exc)

    def _transact(self, group: list[_Operation[Any]]) -> None:
        writes = sum(operation.writes for operation in group)
        begun = time.perf_counter()
        if writes:
            self._see_that_it_is_there()
        if writes > 1:
            self._connection.execute("BEGIN IMMEDIATE")
            results = [_outcome(self._connection, operation.run) for operation in group]
            self._connection.execute("COMMIT")
            for operation, result in zip(group, results, strict=True):
                operation.result = result
        else:  # one statement is a transaction of its own: for that, the interpreter's lock changes hands once
            for operation in group:
                operation.result = _outcome(self._connection, operation.run)
        if writes and self.on_commit:
            self.on_commit(time.perf_counter() - begun)
        if writes and self.failing:
            log.info("the job store can be written again")
            self.failing = False

    def _see_that_it_is_there(self) -> None:
        """One whose file was deleted or replaced can still be written, and nobody would ever read that."""
        try:
            there = os.path.samestat(self._file, os.stat(self._path))  # noqa: PTH116 # for each commit: no Path methods
        except OSError:
            there = False
        if not there:
            raise sqlite3.OperationalError(f"the file {self._path} was deleted or replaced")

    def close(self) -> None:
        """Let the thread end when it has done what was asked before."""
        self._queue.put(None)


def _outcome(db: sqlite3.Connection, run: Callable[[sqlite3.Connection], T]) -> outcome.Outcome[T]:
    """One operation's failure is its own, and not that of its neighbours in the group."""
    try:
        return outcome.Value(run(db))
    except (sqlite3.IntegrityError, ValueError) as exc:
        return outcome.Error(exc)


def _tell(group: list[_Operation[Any]]) -> None:
    for operation in group:
        operation.done.set()


def _insert(db: sqlite3.Connection, job: Job) -> Job:
    if job.request_id and (found := _requested(db, job.request_id)):
        return found
    db.execute(_INSERT, records.row_of(job))
    return job


def _requested(db: sqlite3.Connection, request_id: str) -> Job | None:
    found = _jobs(db, f"{_SELECT} WHERE request_id = ?", (request_id,))
    return found[0] if found else None


def update(db: sqlite3.Connection, job: Job) -> None:
    """Write the present state of a job over that of before."""
    job_id, state, _, _, *rest = records.row_of(job)
    db.execute(_UPDATE, [state, *rest, job_id])


def forget(db: sqlite3.Connection, job_id: str) -> None:
    """Delete a job's record, and remember that its output is to go too."""
    db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
    db.execute("INSERT OR IGNORE INTO deletions (id) VALUES (?)", (job_id,))


def _jobs(db: sqlite3.Connection, query: str, values: Sequence[object]) -> list[Job]:
    return [records.from_row(row) for row in db.execute(query, values)]


def _sized(db: sqlite3.Connection, query: str, values: Sequence[object]) -> list[tuple[Job, int]]:
    """The jobs, and how long their records are."""
    return [(records.from_row(row), len(row[-2])) for row in db.execute(query, values)]


def _marks(values: Sequence[object]) -> str:
    return f"({', '.join('?' * len(values))})"


@asynccontextmanager
async def open_store(path: Path, *, trusted: bool = False) -> AsyncIterator[SqliteStore]:
    """Open the store; the block is the life of its thread. On the way out, what was asked before is done first.

    Args:
        trusted: as for :func:`jobd.storage.schema.open_database`.

    Raises:
        ConfigError: as :func:`jobd.storage.schema.open_database`.
    """
    connection = await trio.to_thread.run_sync(partial(open_database, path, trusted=trusted))
    try:
        store = SqliteStore(connection, path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, store.serve)
            try:
                yield store
            finally:
                store.close()
    finally:
        connection.close()
