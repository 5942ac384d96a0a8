"""The launcher's jobs: forked, held, signalled, reaped, and remembered until their end is recorded.

Standard library only.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import selectors
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, fields

from jobd.launcher import children, family, protocol
from jobd.launcher.allowed import Allowed, read_program
from jobd.launcher.procfs import members_of_group, signal_group
from jobd.launcher.program import Program

Tell = Callable[[protocol.Message, list[int]], None]
"""Says something to the server, if there is one. The descriptors are the listener's to close."""


@dataclass
class _Job:
    """A job's process. ``status`` is its wait status, once it is dead; ``report`` is gone once it has executed."""

    id: str
    child: children.Child
    started_at: int
    executed: bool = False
    status: int | None = None

    def facts(self, op: str) -> protocol.Message:
        child = self.child
        facts = {"pid": child.pid, "main": child.main_pid if child.main >= 0 else child.pid, "stdin": child.stdin}
        return {"op": op, "id": self.id, "started_at": self.started_at, "status": self.status, **facts}


class Jobs:
    """Those that were launched and not released."""

    def __init__(self, selector: selectors.BaseSelector, tell: Tell, nofile: tuple[int, int]) -> None:
        """
        Args:
            nofile: the limit on open files that a job gets (soft, hard).
        """
        self._selector = selector
        self._tell = tell
        self._nofile = nofile
        self._jobs: dict[str, _Job] = {}
        self._by_pid: dict[int, _Job] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def running(self) -> int:
        """How many have not ended."""
        return len(self._by_pid)

    # ---- what a server asks for

    def launch(self, id: str, memfd: int = -1, given: int = -1, *, allowed: Allowed | None = None) -> None:
        """
        Args:
            memfd, given: -1 when there was no descriptor left for it here (the kernel cuts off those that come).
            given: what is to be its stdin, if that is "data".
            allowed: what the server may ask for; everything when None.

        Raises:
            RefusedError: it may not ask for this.
        """
        if memfd < 0:
            self._tell({"op": "failed", "id": id, "stage": "fork", "errno": errno.EMFILE}, [])
            return
        try:
            spec = read_program(memfd)
            if allowed:
                allowed.see_to_program(id, spec, self._nofile[1])
            self._launch(id, spec, given)
            if allowed and id in self._jobs and self._jobs[id].child.stdin == "terminal":
                os.fchown(self._jobs[id].child.out, allowed.server, -1)  # it opens the other end by /proc/self/fd
        finally:
            if given >= 0:
                os.close(given)

    def _launch(self, id: str, spec: protocol.Message, given: int) -> None:
        if id in self._jobs:  # asked before, by a server that did not live to hear the answer
            if self._jobs[id].executed:
                self._tell_job(self._jobs[id], "launched")
            return
        try:
            child = children.spawn(self._program(spec, given))
        except OSError as exc:
            self._tell({"op": "failed", "id": id, "stage": "fork", "errno": exc.errno or 0}, [])
            return
        job = self._jobs[id] = self._by_pid[child.pid] = _Job(id, child, time.time_ns())
        self._watch_report(job)

    def _program(self, spec: protocol.Message, given: int) -> Program:
        if spec.get("stdin") == "data" and given < 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        # What is asked for is what there is. What the launcher was started with is for whom nothing is said.
        limits = {resource.RLIMIT_NOFILE: self._nofile, **{number: (value, value) for number, value in spec["limits"]}}
        # A server of another version may say less, or more: what it may ask for is what our version says.
        known = {each.name: spec[each.name] for each in fields(Program) if each.name in spec}
        return Program(**{**known, "limits": limits, "given": given})

    def signal(self, id: str, signum: int, *, main: bool = False) -> None:
        """To its process group, or to the job's process alone."""
        job = self._jobs.get(id)
        if job and main:
            job.child.signal_main(signum, reaped=job.status is not None)
        elif job:
            signal_group(job.child.pid, signum, leader_reaped=job.status is not None)

    def signal_carefully(self, id: str, signum: int, *, main: bool, but: int) -> None:
        """The same for a server that is not trusted: it may hold on to a job for so long that the number of its group
        is another one's.

        Args:
            but: that server's pid.
        """
        job = self._jobs.get(id)
        if job is None or job.status is None:
            self.signal(id, signum, main=main)
        elif not main:
            members = [(pid, family.started(pid) or 0) for pid in members_of_group(job.child.pid)]
            family.signal_descendants(members, signum, but=but)

    def signal_all(self, signum: int) -> None:
        for id in self._jobs:
            self.signal(id, signum)

    def close_stdin(self, id: str) -> None:
        """The job is to read the end of its stdin, as soon as the server has let go of it as well."""
        if id in self._jobs:
            self._jobs[id].child.close_stdin()

    def release(self, id: str) -> None:
        job = self._jobs.get(id)
        if job and job.status is not None:
            job.child.close()
            del self._jobs[id]

    def tell_all(self) -> None:
        """Tell a new server what there is."""
        for job in self._jobs.values():
            if job.executed:
                self._tell_job(job, "job")

    def _tell_job(self, job: _Job, op: str) -> None:
        fds = [os.dup(job.child.out), os.dup(job.child.err)]
        if job.status is None:
            fds.append(job.child.pidfd())  # it is our child and not reaped: the pid is its own
        if job.child.near >= 0:
            fds.append(os.dup(job.child.near))
        self._tell(job.facts(op), fds)

    # ---- what the children do

    def _watch_report(self, job: _Job) -> None:
        self._selector.register(job.child.report, selectors.EVENT_READ, lambda: self._reported(job))

    def _reported(self, job: _Job) -> None:
        if job.executed or self._jobs.get(job.id) is not job:
            return  # its death, in the same round, was faster
        heard = job.child.hear()
        if heard is None:
            return
        self._selector.unregister(job.child.report)
        os.close(job.child.report)
        if heard is children.EXECUTED:
            job.executed = True
            if job.status is not None:
                job.status = job.child.status(job.status)
            self._tell_job(job, "launched")
            return
        job.child.close()
        del self._jobs[job.id]
        failure = {"stage": heard.stage, "errno": heard.errno, "said": heard.said}
        self._tell({"op": "failed", "id": job.id, **failure}, [])

    def reaped(self, pid: int, status: int) -> None:
        """A child has ended; one that is no job's own (an orphan, which became ours) is not told of."""
        job = self._by_pid.pop(pid, None)
        if job is None:
            return
        job.status = job.child.status(status)
        while not job.executed and job.id in self._jobs and _readable(job.child.report):
            self._reported(job)  # what it said before it died comes first
        if job.executed:
            self._tell({"op": "exited", "id": job.id, "status": job.status}, [])
        elif job.id in self._jobs and job.child.main < 0:
            # Somebody has killed what was to make the sandbox; who is left of it would wait for that for ever.
            signal_group(pid, signal.SIGKILL, leader_reaped=True)

    # ---- over an execve(2)

    def fds(self) -> list[int]:
        """The descriptors that are held."""
        return [fd for job in self._jobs.values() for fd in job.child.fds(job.executed)]

    def state(self) -> list[protocol.Message]:
        """All that :meth:`take_over` needs."""
        return [{**vars(job), "child": vars(job.child)} for job in self._jobs.values()]

    def take_over(self, state: list[protocol.Message]) -> None:
        """Go on with what this process had before it executed itself anew."""
        for facts in state:
            child = children.Child(**facts.pop("child"))
            job = self._jobs[facts["id"]] = _Job(child=child, **facts)
            if job.status is None:
                self._by_pid[child.pid] = job
            if not job.executed:
                self._watch_report(job)
        for fd in self.fds():
            os.set_inheritable(fd, False)


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
