"""Which control group hierarchies this process can use (cgroups(7)), and where in them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

WANTED: Final = frozenset({"memory", "cpu", "cpuacct", "pids", "blkio", "io", "freezer"})
LEAF: Final = "supervisor"
"""In a delegated subtree of version 2, jobd itself is in a group of this name, and the jobs beside it: a group with
processes of its own cannot share out controllers (systemd's ``DelegateSubgroup=`` makes the same of it)."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One hierarchy.

    Attributes:
        version: 1 or 2.
        controllers: that it has, of those that we want.
        base: the directory below which groups may be made.
        problem: why controllers that there are cannot be had; "" if they can.
    """

    version: int
    controllers: frozenset[str]
    base: Path
    problem: str = ""


def shared(hierarchy: Hierarchy) -> str:
    """What to write into ``cgroup.subtree_control`` for groups to have the controllers."""
    return " ".join(f"+{controller}" for controller in sorted(hierarchy.controllers))


def hierarchies(mountinfo: str, membership: str) -> list[Hierarchy]:
    """What ``/proc/self/mountinfo`` and ``/proc/self/cgroup`` say; not all of it need be writable."""
    paths = _memberships(membership)
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        root, mount_point = (_unescaped(text) for text in before.split()[3:5])
        if kind == "cgroup2":
            key, version, controllers = "", 2, _enabled(Path(mount_point))
        elif kind == "cgroup":
            names = frozenset(options.split()[-1].split(","))
            key = next((name for name in names if name in paths), "")
            version, controllers = 1, names & WANTED
            if not controllers:
                continue
        else:
            continue
        if key in paths:
            found.append(Hierarchy(version, controllers, _base(Path(mount_point), root, paths[key], version)))
    return found


def _memberships(membership: str) -> dict[str, str]:
    """The path for each controller of version 1; for version 2 the key is ""."""
    paths = {}
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def _enabled(mount_point: Path) -> frozenset[str]:
    try:
        return frozenset((mount_point / "cgroup.controllers").read_text().split()) & WANTED
    except OSError:
        return frozenset()


def _base(mount_point: Path, root: str, path: str, version: int) -> Path:
    """Where this process is in the hierarchy, as it is mounted here (a container may see only a part of it)."""
    relative = os.path.relpath(path, root)
    inside = mount_point if relative.startswith("..") else mount_point / relative
    return inside.parent if version == 2 and inside.name == LEAF else inside


def _unescaped(text: str) -> str:
    """proc(5): space, tab, newline and backslash are written in octal."""
    return text.encode().decode("unicode_escape") if "\\" in text else text
