"""What may be true of the jobs: a small model, and the world that it is held against.

:meth:`Model.see_rows` looks at what is durable, after every step. :meth:`Model.see_quiet` looks at everything, in
moments in which nothing is under way: each call was answered or has a reason to wait.
"""

from __future__ import annotations

import os
import signal
import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from jobd.storage import records
from jobd.worker.job import Job, JobSpec, Reason
from jobd.worker.lifecycle import TRANSITIONS, State
from tests.properties.launcher import World
from tests.properties.server import Call

RANK: Final = {State.PENDING: 0, State.STARTING: 1, State.RUNNING: 2}
"""Live states, in the order in which a job goes through them; every state that ends it comes after them."""


@dataclass(frozen=True)
class Request:
    """A Start as it is sent, and may be sent again."""

    spec: JobSpec
    by: str
    request_id: str = ""

    @property
    def tag(self) -> str:
        return self.spec.argv[0]


def reachable() -> dict[State, set[State]]:
    """Which states a job may be seen in after it was seen in one, by the table of the lifecycle."""
    found: dict[State, set[State]] = {state: {state} for state in State}
    for _ in State:
        for (before, _event), after in TRANSITIONS.items():
            found[before] |= found[after]
    return found


REACHABLE: Final = reachable()


class Model:
    """What must be true of the jobs, whatever was done to the server.

    Attributes:
        rows: each job's record, as it was last seen on the disk, in the order of the store, deleted ones included.
        known: ids that somebody was told: these jobs must be there.
        ending: ids of jobs that somebody wanted to end, so that "stopped" may be true of them.
        deleting: ids of jobs that somebody wanted to delete.
    """

    def __init__(self, world: World, store: Path, *, slots: int, max_pending: int) -> None:
        self._world = world
        self._store = store
        self._slots = slots
        self._max_pending = max_pending
        self._bound = max_pending
        self._connection: sqlite3.Connection | None = None
        self._version: object = None
        self._read: list[Job] = []
        self.requests: list[Request] = []
        self.rows: dict[str, Job] = {}
        self.gone: set[str] = set()
        self.known: set[str] = set()
        self.ending: set[str] = set()
        self.deleting: set[str] = set()
        self.retaining = False
        self.lost_with: dict[str, set[Reason]] = {}

    # ---- what is durable

    def read(self) -> list[Job]:
        """All records on the disk, in the order of the store."""
        if self._connection is None:
            if not self._store.exists():
                return []
            self._connection = sqlite3.connect(self._store)
        version = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            found = self._connection.execute("SELECT record FROM jobs ORDER BY seq")
            self._version, self._read = version, [records.load(text) for (text,) in found]
        return self._read

    def close(self) -> None:
        """Let go of the store."""
        if self._connection is not None:
            self._connection.close()

    def see_rows(self) -> list[Job]:
        """Jobs are neither lost nor doubled; they move along the lifecycle; what has ended never changes."""
        rows = self.read()
        present = {job.id for job in rows}
        for job in rows:
            assert job.id not in self.gone, "a job that was deleted is there again"
            before = self.rows.get(job.id, job)
            assert job.state in REACHABLE[before.state], f"{before.state} became {job.state}"
            assert not before.state.terminal or job == before, f"a job that had ended changed: {before} -> {job}"
            assert any((job.spec, job.started_by) == (r.spec, r.by) for r in self.requests), "nobody asked for this job"
        for job_id in self.rows.keys() - present - self.gone:
            assert job_id in self.deleting or self.retaining, f"a job is lost: {self.rows[job_id]}"
            assert self.rows[job_id].state.terminal
            self.gone.add(job_id)
        self.rows |= {job.id: job for job in rows}
        assert self.known <= present | self.gone, "a job that a client was told of is not recorded"
        tags = [job.spec.argv[0] for job in rows]
        assert len(set(tags)) == len(tags), "one request became two jobs"
        for job in self.rows.values():
            assert self._world.executions[job.id] <= 1, "a job ran twice"
        running = {child.id for child in self._world.running}
        assert running <= present, "a process runs that has no record"
        begun = {job.id for job in rows if job.state is not State.PENDING}
        assert running <= begun, "a process runs, and a crash would start it again"
        assert len(running) <= self._slots, "more processes than slots"
        return rows

    def died(self, *, reboot: bool) -> None:
        """The launcher is gone: what it had is lost, unless its end is on the disk."""
        for job in self.read():
            if job.state in (State.STARTING, State.RUNNING):
                self.lost_with.setdefault(job.id, set()).add(Reason.REBOOTED if reboot else Reason.LAUNCHER_LOST)
        # A later reboot is no reason for a job that an earlier one had lost already; the server was back in between.

    def restarted(self, waiting: int) -> None:
        """After a crash more may wait than may be added to: who had just been handed out waits again."""
        self._bound = max(self._max_pending, waiting)

    def free(self, rows: list[Job]) -> bool:
        """A slot is free."""
        return sum(job.state in (State.STARTING, State.RUNNING) for job in rows) < self._slots

    # ---- what clients are told

    def check_start(self, call: Call, request: Request) -> None:
        """The answer to a Start is the job that was asked for; an error names what differs."""
        if call.result is not None:
            job: Job = call.result
            assert (job.spec, job.started_by, job.request_id) == (request.spec, request.by, request.request_id)
            self.known.add(job.id)

    def differences(self, request: Request, job: Job) -> str:
        """What an error must name, when the request_id of the job is used for this request."""
        fields = [
            name for name in ("argv", "name", "env", "cwd") if getattr(request.spec, name) != getattr(job.spec, name)
        ]
        return ", ".join((["principal"] if request.by != job.started_by else []) + fields)

    # ---- what is true when nothing is under way

    def see_quiet(self, shown: list[Job], calls: list[Call]) -> None:
        """
        Args:
            shown: the list of jobs, oldest first, as a client gets it.
            calls: those that were not answered.
        """
        rows = self.see_rows()
        assert [self._settled(job) for job in shown] == [self._settled(job) for job in rows]
        self._see_queue(rows)
        for job in rows:
            self._see_truth(job)
        for child in self._world.launcher.children.values():
            assert child.status is None, "the launcher remembers a job whose end is recorded"
        for call in calls:
            assert self._waits_rightly(call), f"a call is not answered: {call}"

    @staticmethod
    def _settled(job: Job) -> Job:
        return job if job.state.terminal else replace(job, output_bytes=0, dropped_bytes=0)

    def _see_queue(self, rows: list[Job]) -> None:
        """First come, first served; no slot is empty while somebody waits, and none is used twice."""
        waiting = [place for place, job in enumerate(rows) if job.state is State.PENDING]
        served = [place for place, job in enumerate(rows) if job.worker]
        active = sum(job.state in (State.STARTING, State.RUNNING) for job in rows)
        assert active <= self._slots, "more jobs than slots"
        if waiting:
            assert active == self._slots, "a slot is empty, and a job waits"
            assert not served or max(served) < min(waiting), "a job was overtaken"
        assert len(waiting) <= self._bound, "more jobs wait than may"
        self._bound = max(self._max_pending, len(waiting))

    def _see_truth(self, job: Job) -> None:
        """A record says of the process what is true of it."""
        child = self._world.children.get(job.id)
        alive = child if child in self._world.running else None
        assert (alive is not None) == (job.state is State.RUNNING), (
            f"a process that runs, and a job that does not: {job}, {child}"
        )
        if job.state is State.STARTING:
            assert any(each.id == job.id for each in self._world.unlaunched), f"nothing is being started: {job}"
        if alive and job.stopping:
            assert signal.SIGTERM in alive.asked, "a job is to end, and nobody ends it"
        if not job.state.terminal:
            return
        if job.state is State.LOST:
            assert job.wait_status is None, "an exit code was made up"
            assert job.reason in self.lost_with.get(job.id, ()), f"lost for no reason: {job}"
        elif job.state is State.START_FAILED:
            assert (child, job.spec.argv[1], job.reason) == (None, "fails", Reason.COMMAND_NOT_FOUND)
        elif child is None:
            assert (job.state, job.wait_status, job.worker) == (State.STOPPED, None, "")
            assert job.id in self.ending
        else:
            assert job.wait_status == child.status, "an exit code is wrong"
            assert (job.pid, job.output_bytes, job.dropped_bytes) == (child.pid, child.written, 0)
            assert job.state is State.STOPPED or job.state is by_itself(child.status)
            assert job.state is not State.STOPPED or job.id in self.ending, "nobody asked for this end"

    def _waits_rightly(self, call: Call) -> bool:
        """A call that was not answered waits for something that did not happen yet."""
        jobs = [self.rows[job_id] for job_id in call.jobs]
        if call.about == "start":
            return bool(self._world.unlaunched)
        if call.about == "wait for any":
            return not any(job.state.terminal for job in jobs)
        if call.about == "wait for all":
            return not all(job.state.terminal for job in jobs)
        if call.about == "signal":
            return jobs[0].state is State.STARTING
        if call.about == "stop":
            child = self._world.launcher.children.get(jobs[0].id)
            told = child is not None and (not child.executed or signal.SIGTERM in child.asked)
            return not jobs[0].state.terminal and told
        return False


def by_itself(status: int | None) -> State:
    """How a job ends whose process ended so, when nobody asked for it."""
    assert status is not None
    if os.WIFSIGNALED(status):
        return State.KILLED
    return State.FAILED if os.WEXITSTATUS(status) else State.SUCCEEDED
