"""What this machine has to hold jobs with."""

from __future__ import annotations

import contextlib
import enum
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from jobd.limits.groups import PROCS, ControlGroups
from jobd.limits.hierarchies import LEAF, Hierarchy, hierarchies, shared
from jobd.limits.processes import stat_of
from jobd.limits.walk import Walk
from jobd.worker.containment import Containment


class Choice(enum.StrEnum):
    """What an operator can ask for."""

    AUTO = "auto"
    CGROUP = "cgroup"
    CGROUP_V1 = "cgroup-v1"
    CGROUP_V2 = "cgroup-v2"
    NONE = "none"


VERSIONS: Final = {Choice.CGROUP_V1: {1}, Choice.CGROUP_V2: {2}}
"""Of the hierarchies, when not all of them are to be used."""
KILLERS: Final = ("freezer", "pids", "memory", "cpu")
"""The controllers of version 1 in whose hierarchy processes can be kept together, the best first."""


def detect(name: str, choice: Choice = Choice.AUTO, *, only_look: bool = False) -> Containment:
    """The best that there is.

    Args:
        name: of the directory for this daemon's jobs in each hierarchy.
        only_look: change nothing for any process that is there. What is found is not for jobs.

    Raises:
        OSError: control groups were asked for, and none can be made.
    """
    if choice is Choice.NONE:
        return Walk()
    found = hierarchies(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    wanted = VERSIONS.get(choice, {1, 2})
    problems: list[str] = []
    wished = [each for each in found if each.version in wanted]
    groups = control_groups(name, wished, only_look=only_look, problems=problems)
    if groups is None and choice is not Choice.AUTO:
        raise OSError(errno.EACCES, "no control group can be made here; see the documentation on delegation")
    return groups or Walk(problems)


def control_groups(
    name: str, found: Sequence[Hierarchy], *, only_look: bool = False, problems: list[str] | None = None
) -> ControlGroups | None:
    """Control groups in those of the hierarchies that this process may use; None when there is none.

    Args:
        problems: is given why the others cannot be used.
    """
    usable = []
    for each in found:
        try:
            usable.append(_usable(each, name, only_look=only_look))
        except OSError as exc:
            if problems is not None:
                problems.append(f"no control group can be made in {each.base}: {exc.strerror}")
    tree = next((each for each in usable if each.version == 2), None) or _version_1_tree(usable)
    if tree is None:
        return None
    # Where both versions have a controller, which the kernel does not allow, the first would win.
    return ControlGroups(tree, [each for each in usable if each != tree], name)


def _version_1_tree(usable: Sequence[Hierarchy]) -> Hierarchy | None:
    return next((each for killer in KILLERS for each in usable if killer in each.controllers), None)


def _usable(hierarchy: Hierarchy, name: str, *, only_look: bool) -> Hierarchy:
    """The hierarchy with the controllers that can be used in it.

    Raises:
        OSError: no group can be made there.
    """
    # Another jobd may be looking, or have the directory, at this moment: neither is to be in the other's way.
    probe = hierarchy.base / f"{name}-probe-{os.getpid()}"
    probe.mkdir(exist_ok=True)
    probe.rmdir()
    if hierarchy.version == 1 or not hierarchy.controllers:
        return hierarchy
    if only_look:
        may = os.access(hierarchy.base / "cgroup.subtree_control", os.W_OK)
        return hierarchy if may else Hierarchy(2, frozenset(), hierarchy.base)
    (hierarchy.base / name).mkdir(exist_ok=True)
    try:
        share_out(hierarchy, name)
    except OSError as exc:
        return Hierarchy(2, frozenset(), hierarchy.base, exc.strerror or str(exc))
    return hierarchy


def share_out(hierarchy: Hierarchy, name: str) -> None:
    """Let the groups of jobs have the controllers of a hierarchy of version 2.

    Raises:
        OSError: this process may not, or others than jobd's own are in the group that it began in.
    """
    share = shared(hierarchy)
    control = hierarchy.base / "cgroup.subtree_control"
    try:
        control.write_text(share)
    except OSError as exc:
        if exc.errno != errno.EBUSY:
            raise
        _make_room(hierarchy.base)
        control.write_text(share)
    (hierarchy.base / name / "cgroup.subtree_control").write_text(share)


def _make_room(base: Path) -> None:
    """Move jobd's own processes into a group of their own, if they are the only ones in the group."""
    pids = [int(pid) for pid in (base / PROCS).read_text().split()]
    strangers = set(pids) - _our_own()
    if strangers:
        raise OSError(errno.EBUSY, "there are others than jobd's own processes in its control group")
    leaf = base / LEAF
    leaf.mkdir(exist_ok=True)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            (leaf / PROCS).write_text(str(pid))


def _our_own() -> set[int]:
    """This process, and those that it descends from: server, launcher, front, and in a container process 1."""
    found, pid = set(), os.getpid()
    while pid > 0 and (stat := stat_of(pid)) is not None:
        found.add(pid)
        pid = stat.parent
    return found
