"""Jobs in control groups: one for each job in each hierarchy that is of use."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Final

from jobd.limits.capacity import capacity
from jobd.limits.hierarchies import Hierarchy, shared
from jobd.limits.processes import look_together, member_of, parents_first, send_directly, stat_of
from jobd.limits.settings import OPTIONAL, counts_io, holdable, settings, text_of, usage
from jobd.limits.walk import WalkedJob
from jobd.worker.containment import Limits, Member, Send, Usage

PROCS: Final = "cgroup.procs"
COUNTING: Final = frozenset({"memory", "blkio", "io", "cpuacct"})
"""Controllers that count what a job uses; others are of use to a job that has their limit."""
ROUNDS: Final = 1000
"""Rounds of killing, where the kernel has no single call for it, before what is left is taken for unkillable."""


class ControlGroups:
    """A :class:`jobd.worker.containment.Containment` of control groups.

    The job's processes are looked for, and killed, in one hierarchy (the tree): that of version 2, whose
    ``cgroup.kill`` no fork escapes, or else the freezer's of version 1. The others hold limits and count.
    """

    def __init__(self, tree: Hierarchy, others: Sequence[Hierarchy], name: str) -> None:
        """
        Args:
            name: the directory, in each hierarchy, that has the jobs of this daemon, and of no other.
        """
        self._tree = tree
        self._all = [tree, *(other for other in others if _is_of_use(other, tree))]
        self._rooms = [each.base / name for each in self._all]
        self.send: Send = send_directly
        self.capacity = capacity(groups=[each.base for each in self._all])
        self.prompt = tree.version == 2  # else emptiness is read from each group that the job made in its own
        self.limits = frozenset[str]().union(*(holdable(each.controllers) for each in self._all))
        kinds = {each.version for each in self._all}
        self.name = "cgroup v2" if kinds == {2} else "cgroup v1" if kinds == {1} else "cgroup v1 and v2"
        self.proof = "cgroup.events" if tree.version == 2 else "cgroup.procs"
        # memory.oom.group is version 2's alone.
        group_killing = any(each.version == 2 and "memory" in each.controllers for each in self._all)
        self.weaknesses = _weaknesses(tree, self.limits, group_killing=group_killing)

    def give_to(self, uid: int, gid: int) -> Sequence[str]:
        """Let a user make groups in the directories for jobs. Processes are put there by whoever has the right to."""
        for each, room in zip(self._all, self._rooms, strict=True):
            _make_room(room, each)
            os.chown(room, uid, gid)
        return list(map(str, self._rooms))

    def create(self, job_id: str, limits: Limits) -> ControlGroup:
        """Make the groups of a new job. Asked again, they are the same.

        Raises:
            OSError: they cannot be made.
        """
        group = self._group(job_id)
        try:
            for each, room in zip(self._all, self._rooms, strict=True):
                files = list(settings(limits, each.controllers, each.version))
                if not files and each is not self._tree and not _counts(each):
                    continue  # nothing to hold, nothing to count
                directory = f"{room}/{job_id}"
                try:
                    _mkdir(directory)
                except FileNotFoundError:
                    _make_room(room, each)
                    _mkdir(directory)
                for file, value in files:
                    _set(Path(directory, file), value)
                group.entrances.append(f"{directory}/{PROCS}")
        except OSError:
            group.remove()
            raise
        return group

    def find(self, job_id: str, pid: int) -> ControlGroup:
        """The groups of a job that was started before."""
        return self._group(job_id, pid)

    def _group(self, job_id: str, pid: int = 0) -> ControlGroup:
        directories = [f"{room}/{job_id}" for room in self._rooms]
        by_controller = {
            controller: (each.version, directory)
            for each, directory in zip(self._all, directories, strict=True)
            for controller in each.controllers
        }
        by_controller["tree"] = (self._tree.version, directories[0])
        return ControlGroup(directories, by_controller, pid, self._send)

    def _send(self, job_id: str, targets: Sequence[tuple[int, int]], signum: int) -> None:
        self.send(job_id, targets, signum)

    def looking(self) -> AbstractAsyncContextManager[None]:
        """As of the protocol."""
        return look_together()

    def close(self) -> None:
        """Remove what is empty: groups of jobs that have ended, and with the last of them the directory for all."""
        self.sweep(frozenset())  # the kernel keeps those that have processes
        for room in self._rooms:
            with contextlib.suppress(OSError):
                room.rmdir()

    def sweep(self, jobs: frozenset[str]) -> int:
        """Remove the groups of all jobs but these."""
        with contextlib.suppress(OSError):
            left = {path.rpartition("/")[2] for room in self._rooms for path in _children(room)} - jobs
            for job_id in left:
                self._group(job_id).remove()
            return len(left)
        return 0


class ControlGroup:
    """One job's groups, as :class:`jobd.worker.containment.Container`.

    Attributes:
        entrances: of those that were made for it; none when it was found.
    """

    def __init__(
        self,
        directories: Sequence[str],
        controllers: Mapping[str, tuple[int, str]],
        pid: int,
        send: Send = send_directly,
    ) -> None:
        """
        Args:
            directories: in each hierarchy; the tree's first.
            controllers: which version and which of them a controller has.
            pid: the job's first process, if it is known: the session that others may have left.
        """
        self.entrances: list[str] = []
        self._directories = directories
        self._id = directories[0].rpartition("/")[2]
        self._strays = WalkedJob(self._id, send)
        self._controllers = controllers
        self._tree = directories[0]
        self._pid = pid
        self._send = send

    def began_with(self, pid: int) -> None:
        """The job's first process is there."""
        self._pid = pid
        self._strays.began_with(pid)

    def first_ended(self) -> None:
        """That process was reaped."""
        self._strays.first_ended()

    def members(self) -> list[Member]:
        """Those of the group, and those that had the right to leave it, did, and are found as without groups."""
        found = {pid: member for pid in self._pids() if (member := member_of(pid, self._pid)) is not None}
        return list({**{stray.pid: stray for stray in self._strays.members()}, **found}.values())

    def signal(self, signum: int) -> None:
        self._signal([member.pid for member in self.members()], signum)

    def kill(self) -> None:
        pids = set(self._pids())
        try:
            Path(self._tree, "cgroup.kill").write_text("1")
        except OSError:
            self._kill_frozen()
        self._strays.kill(but=pids)

    def _kill_frozen(self) -> None:
        """Without ``cgroup.kill``: no process of a frozen group can fork while it is killed."""
        version, freezer = self._controllers.get("freezer", (0, self._tree))
        for _ in range(ROUNDS):
            with _frozen(Path(freezer) if version == 1 else None):
                pids = list(self._pids())
                self._signal(pids, signal.SIGKILL)
            if not pids or all(member_of(pid, 0) is None for pid in pids):
                return

    def _signal(self, pids: Sequence[int], signum: int) -> None:
        found = (stat for pid in pids if (stat := stat_of(pid)) is not None)
        self._send(self._id, parents_first(found, self._pid), signum)

    def is_empty(self) -> bool:
        """What the kernel says of the group and of those that the job made in it. Zombies have left it.

        Raises:
            OSError: it cannot be read; what cannot be seen is not empty.
        """
        events = text_of(f"{self._tree}/cgroup.events")
        if events is None:
            return all(member_of(pid, 0) is None for each in self._procs() for pid in _pids_in(each))
        return "populated 0" in events

    def usage(self) -> Usage:
        used = usage(self._controllers)
        return used if used.processes is not None else replace(used, processes=sum(1 for _ in self._pids()))

    def usage_of_all(self) -> Usage:
        used = usage(self._controllers)
        return used if used.processes is not None else replace(used, processes=0)

    def remove_at_once(self) -> bool:
        return all(map(_rmdir, self._directories))

    def remove(self) -> None:
        for directory in self._directories:
            if not _rmdir(directory):
                with contextlib.suppress(OSError):
                    for path in reversed(_descendants(directory)):
                        _rmdir(path)
                _rmdir(directory)

    def _pids(self) -> Iterator[int]:
        """As far as they can be seen."""
        with contextlib.suppress(OSError):
            for each in self._procs():
                with contextlib.suppress(OSError):
                    yield from _pids_in(each)

    def _procs(self) -> list[str]:
        return [f"{directory}/{PROCS}" for directory in (self._tree, *_descendants(self._tree))]


def _pids_in(procs: str) -> list[int]:
    # 0 is one that our pid namespace cannot see; kill(2) takes it for our own process group.
    return [pid for pid in map(int, (text_of(procs) or "").split()) if pid]


@contextlib.contextmanager
def _frozen(freezer: Path | None) -> Iterator[None]:
    if freezer is None:
        yield
        return
    state = freezer / "freezer.state"
    with contextlib.suppress(OSError):
        state.write_text("FROZEN")
        until = time.monotonic() + 1
        while state.read_text().strip() != "FROZEN" and time.monotonic() < until:
            time.sleep(0.001)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            state.write_text("THAWED")


def _set(path: Path, value: str) -> None:
    try:
        path.write_text(value)
    except OSError:
        if path.name not in OPTIONAL:
            raise


def _make_room(room: Path, hierarchy: Hierarchy) -> None:
    """Make the directory for jobs, with what groups in it may use of version 2."""
    room.mkdir(exist_ok=True)
    if hierarchy.version == 2 and hierarchy.controllers:
        (room / "cgroup.subtree_control").write_text(shared(hierarchy))


def _mkdir(directory: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory)  # noqa: PTH102 # for each job: no Path objects


def _rmdir(directory: str) -> bool:
    """Whether it is gone; not, when it has processes or groups of its own."""
    try:
        os.rmdir(directory)  # noqa: PTH106 # for each job: no Path objects
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True


def _children(directory: str | Path) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _descendants(directory: str) -> list[str]:
    """The groups below, parents before their children. A job that may make groups makes as many as it likes."""
    found: list[str] = []
    waiting = [directory]
    while waiting:
        below = _children(waiting.pop())
        found += below
        waiting += below
    return found


def _is_of_use(hierarchy: Hierarchy, tree: Hierarchy) -> bool:
    """Beside a tree of version 2, which counts processor time and needs no freezer, fewer are."""
    return bool(hierarchy.controllers - ({"freezer", "cpuacct"} if tree.version == 2 else {"freezer"}))


def _counts(hierarchy: Hierarchy) -> bool:
    counting = hierarchy.controllers & COUNTING
    return bool(counting) and (counting != {"blkio"} or counts_io(hierarchy.base))


def _weaknesses(tree: Hierarchy, limits: frozenset[str], *, group_killing: bool) -> tuple[str, ...]:
    found = []
    if tree.version == 1:
        found.append("emptiness is read from cgroup.procs, and killing takes several rounds")
    if "memory" in limits and not group_killing:
        found.append(
            "the kernel ends one process of a job that uses too much memory, not the job: one that ends by SIGKILL "
            "after that is called out of memory"
        )
    missing = {"memory", "cpus", "cpu_weight", "processes"} - limits
    if missing:
        why = f" ({tree.problem})" if tree.problem else ""
        found.append(f"these limits cannot be held here: {', '.join(sorted(missing))}{why}")
    return tuple(found)
