"""The machine that the steps are done to: a server that lives or not, a launcher below it, clients above it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from jobd.worker.errors import QueueFullError, RequestIdReusedError
from jobd.worker.job import Job
from jobd.worker.lifecycle import State
from tests.properties.launcher import World
from tests.properties.model import Model, Request
from tests.properties.server import Call, Server

ALL: Final = 1_000_000
PATIENCE: Final = 500


class Machine:
    """Made anew for each sequence of steps."""

    def __init__(
        self, nursery: trio.Nursery, clock: MockClock, directory: Path, *, workers: int, slots: int, max_pending: int
    ) -> None:
        self._nursery = nursery
        self._clock = clock
        self._directory = directory
        self._settings = workers, slots, max_pending
        self.max_pending = max_pending
        self.world = World()
        self.model = Model(self.world, directory / "jobs.sqlite3", slots=workers * slots, max_pending=max_pending)
        self.calls: list[Call] = []
        self._starts: list[tuple[Call, Request]] = []

    # ---- time, and the store's thread

    async def let_run(self, committed: int) -> None:
        """Let everything go on as far as it can, with so many operations of the store done meanwhile."""
        await wait_all_tasks_blocked()
        rounds = 0
        while committed and self.server.intake.waiting and not self.server.ended:
            now = min(committed, len(self.server.intake.waiting))
            self.server.commit(now)
            committed -= now
            rounds += 1
            assert rounds < PATIENCE, "something asks the store again and again"
            await wait_all_tasks_blocked()
        self._hear_answers()
        self.model.see_rows()

    async def quiet(self) -> None:
        """Let everything go on until nothing is under way, and look at all of it."""
        await self.let_run(ALL)
        shown = await self.shown()
        self.model.see_quiet(shown, [call for call in self.calls if not call.over])

    async def pass_time(self, seconds: float) -> None:
        """Time passes, from each moment in which something happens to the next."""
        until = trio.current_time() + seconds
        while True:
            await self.let_run(ALL)
            left = until - trio.current_time()
            if left <= 0:
                return
            self._clock.jump(max(0.0, min(left, trio.lowlevel.current_statistics().seconds_to_next_deadline)))

    # ---- the server

    async def begin(self) -> None:
        """The launcher starts a server."""
        workers, slots, pending = self._settings
        self.server = Server(self._directory, self.world.launcher, workers=workers, slots=slots, pending=pending)
        self._nursery.start_soon(self.server.run)
        await self.let_run(ALL)
        assert self.server.ready
        self.model.restarted(self.server.broker.pending)

    async def crash(self, committed: int, what: str) -> None:
        """The server is killed, alone or with its launcher or with the machine, and started again."""
        self.server.crash(committed)
        await self._after_its_end()
        if what != "server":
            self.model.died(reboot=what == "machine")
            self.world.lose_launcher(reboot=what == "machine")
        await self.begin()

    async def leave(self, *, ends_jobs: bool) -> None:
        """An orderly end, and the next start."""
        if ends_jobs:
            await self.quiet()
            for child in self.world.unlaunched:  # an orderly end waits for them
                self.world.launcher.proceed(child)
            self.model.ending |= {child.id for child in self.world.launcher.children.values()}
        self.server.leave(ends_jobs=ends_jobs)
        await self.let_run(ALL)
        if ends_jobs:
            await self.pass_time(30)
            assert not self.world.launcher.children, "an orderly end left processes behind"
        assert self.server.ended
        await self._after_its_end()
        await self.begin()

    async def _after_its_end(self) -> None:
        await wait_all_tasks_blocked()
        assert self.server.ended, "the server's end does not come"
        self._hear_answers()
        assert all(call.over for call in self.calls)
        self.calls.clear()
        self.model.retaining = False

    # ---- clients

    def call(self, about: str, *args: object, jobs: tuple[str, ...] = (), **kwargs: object) -> Call:
        """Begin a call of the broker; how it is answered is looked at later."""
        function = getattr(self.server.broker, about.split()[0])
        call = self.server.ask(Call(about, jobs), function, *args, **kwargs)
        self.calls.append(call)
        return call

    async def retain(self) -> None:
        """A pass of the retention, while nothing else is under way."""
        await self.let_run(ALL)
        self.model.retaining = True
        self.server.ask(Call("retain"), self.server.retention.enforce)
        await self.let_run(ALL)
        self.model.retaining = False

    def start(self, request: Request) -> Call:
        call = self.call("start", request.spec, by=request.by, request_id=request.request_id)
        self._starts.append((call, request))
        return call

    async def start_alone(self, request: Request) -> None:
        """A Start while nothing else is under way: its answer is known beforehand."""
        rows = self.model.see_rows()
        before = [job for job in rows if request.request_id and job.request_id == request.request_id]
        waiting = sum(job.state is State.PENDING for job in rows)
        free = not waiting and self.model.free(rows)
        call = self.start(request)
        await self.let_run(ALL)
        if before and (differs := self.model.differences(request, before[0])):
            assert isinstance(call.error, RequestIdReusedError)
            assert (call.error.job_id, call.error.differs) == (before[0].id, differs)
        elif before:
            assert call.error is None
            assert not call.over or call.result.id == before[0].id, "a Start that was sent again is another job"
        elif not free and waiting >= self.max_pending:
            assert isinstance(call.error, QueueFullError)
        else:
            assert call.error is None
            assert not call.over or call.result.id not in {job.id for job in rows}

    async def shown(self) -> list[Job]:
        """The list of jobs, oldest first, and each of them by its id: both say the same."""
        listing = self.server.ask(Call("page"), self.server.broker.page, before=0, states=(), size=ALL)
        await self.let_run(ALL)
        shown = [job for _, job in reversed(listing.result)]
        queries = [self.server.ask(Call("query"), self.server.broker.query, job.id) for job in shown]
        await self.let_run(ALL)
        # A list does not ask what jobs have used.
        assert [replace(query.result, usage=job.usage) for query, job in zip(queries, shown, strict=True)] == shown
        on_workers = {job.id for view in self.server.broker.workers() for job in view.jobs}
        assert on_workers == {job.id for job in shown if job.state in (State.STARTING, State.RUNNING)}
        return shown

    def _hear_answers(self) -> None:
        for call, request in self._starts:
            if call.over:
                self.model.check_start(call, request)
        self._starts = [(call, request) for call, request in self._starts if not call.over]
        self.calls = [call for call in self.calls if not call.over]

    def job(self, number: int) -> str | None:
        """One of the jobs that there are or were; those that live have the low numbers."""
        ids = sorted(self.model.rows, key=lambda job_id: self.model.rows[job_id].state.terminal)
        return ids[number % len(ids)] if ids else None
