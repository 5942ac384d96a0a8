"""One life of the server: the real broker, registry, store, journal, workers and logs, without its network.

The store's thread is the one thing that is missing: what it would do is done when the test says so, in the same code,
so that the test can end the server's life between any two of its operations.
"""

from __future__ import annotations

import collections
import os
import queue
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import outcome
import trio

from api.errors import JobdError
from jobd.broker.broker import Broker
from jobd.broker.journal import PatientJournal
from jobd.broker.recovery import open_broker
from jobd.broker.retention import Keep, Retention
from jobd.daemon import _acknowledge
from jobd.output.log import LogStore
from jobd.pools.local import open_local_pool
from jobd.storage.schema import open_database
from jobd.storage.sqlite import SqliteStore
from jobd.worker.supervisor import Timings
from tests.properties.launcher import CrashedError, Link, ScriptedLauncher

T = TypeVar("T")
TIMINGS: Final = Timings(grace=5.0, drain=1.0, kill=5.0)
KEPT: Final = 3


class Intake:
    """The queue of a store's operations, which the store's code gets to see as far as the test says."""

    def __init__(self) -> None:
        self.waiting: collections.deque[Any] = collections.deque()
        self._given: collections.deque[Any] = collections.deque()
        self._crashed = False

    def put(self, operation: Any) -> None:
        if self._crashed and operation is not None:
            self._fail(operation)
        else:
            self.waiting.append(operation)

    def get(self) -> Any:
        return self._given.popleft()

    def get_nowait(self) -> Any:
        if not self._given:
            raise queue.Empty
        return self._given.popleft()

    def give(self, count: int) -> None:
        """Let the store see the first of them, and then its end."""
        self._given.extend(self.waiting.popleft() for _ in range(min(count, len(self.waiting))))
        self._given.append(None)

    def crash(self) -> None:
        """What waits, and what comes, is never done."""
        self._crashed = True
        while self.waiting:
            self._fail(self.waiting.popleft())

    @staticmethod
    def _fail(operation: Any) -> None:
        operation.result = outcome.Error(CrashedError())
        operation.done.set()


class Call:
    """What a client asked.

    Attributes:
        about: for whoever reads a failure.
        jobs: the ids that it names.
        result, error: how it was answered; neither, when it was not.
        over: it was answered, or given up, or its server crashed.
    """

    def __init__(self, about: str, jobs: tuple[str, ...] = ()) -> None:
        self.about = about
        self.jobs = jobs
        self.result: Any = None
        self.error: JobdError | None = None
        self.over = False
        self.scope = trio.CancelScope()

    def __repr__(self) -> str:
        return f"<{self.about} {self.jobs}: {self.error or self.result}>"

    async def run(self, function: Callable[[], Awaitable[Any]]) -> None:
        try:
            with self.scope:
                self.result = await function()
        except JobdError as exc:
            self.error = exc
        except CrashedError:
            pass
        finally:
            self.over = True


class Server:
    """``run`` is its life. Attributes as in the daemon."""

    broker: Broker
    calls: trio.Nursery

    def __init__(self, directory: Path, launcher: ScriptedLauncher, *, workers: int, slots: int, pending: int) -> None:
        self._directory = directory
        self._settings = workers, slots, pending
        self._ends_jobs = False
        self._leaving = trio.Event()
        self._life = trio.CancelScope()
        self.intake = Intake()
        self.link = Link(launcher)
        self.ready = self.ended = False

    async def run(self) -> None:
        workers, slots, pending = self._settings
        path = self._directory / "jobs.sqlite3"
        connection = open_database(path)
        store = SqliteStore(connection, path)
        store._queue = cast("queue.SimpleQueue[Any]", self.intake)
        self.store = store
        journal, logs = PatientJournal(store), LogStore(self._directory / "output")
        self.retention = Retention(store, logs, Keep(seconds=1e9, jobs=KEPT, output=2**40), logs.budget)
        pool = open_local_pool(
            self.link, logs, journal, count=workers, slots=slots, timings=TIMINGS, ends_jobs=lambda: self._ends_jobs
        )
        try:
            with self._life:
                async with pool as made, open_broker(made, store, journal, logs, max_pending=pending) as self.broker:
                    await _acknowledge(cast(Any, self.link), store)
                    self.ready = True
                    async with trio.open_nursery() as self.calls:
                        await self._leaving.wait()
                        self.calls.cancel_scope.cancel()
        except* CrashedError:
            pass
        finally:
            self.ready, self.ended = False, True
            self.link.cut()
            self.link.close()
            for log in logs._open.values():  # a supervisor that the crash met while it waited for the store has not
                log._writer.leave()
            connection.close()

    def ask(self, call: Call, function: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Call:
        """Begin a call; its answer comes when the store and the processes have done what it takes."""
        self.calls.start_soon(call.run, partial(function, *args, **kwargs))
        return call

    def commit(self, count: int) -> None:
        """Do what the store's thread would do with the first operations that wait, in one group."""
        if self.intake.waiting and count:
            self.intake.give(count)
            self.store.serve()

    # ---- ends

    def crash(self, committed: int) -> None:
        """SIGKILL: of what was on its way to the disk, the first operations are done; nothing that is in memory
        counts any more."""
        self.link.cut()
        self.commit(committed)
        self.intake.crash()
        self._life.cancel()

    def leave(self, *, ends_jobs: bool) -> None:
        """An orderly end."""
        self._ends_jobs = ends_jobs
        self._leaving.set()


def in_this_thread() -> Callable[..., Awaitable[Any]]:
    """In place of ``trio.to_thread.run_sync``: the same, and the same every time."""

    async def run_sync(function: Callable[..., T], *args: Any, **_: Any) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        result = function(*args)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return result

    return run_sync


def temporary_root() -> str | None:
    """A file system in memory, if there is one: thousands of small databases are made."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
