"""What there is to hold jobs with is found, and where; and it is said why no more."""

from __future__ import annotations

from pathlib import Path

from jobd.limits.detect import Choice, control_groups, detect
from jobd.limits.hierarchies import Hierarchy, hierarchies
from jobd.limits.walk import Walk
from tests.support.containers import DAEMON, remove_all


def test_what_this_machine_has_is_found() -> None:
    """Control groups if some can be made, else /proc; never an error unless groups were demanded."""
    name = f"{DAEMON}-detect"
    try:
        assert detect(name, Choice.NONE).name == "none"
        found = detect(name)
        assert found.name in ("cgroup v1", "cgroup v2", "cgroup v1 and v2", "none")
        if found.name != "none":
            assert detect(name, Choice.CGROUP).name == found.name
    finally:
        remove_all(name)


def test_where_we_are_is_read_from_proc() -> None:
    """Mount points with odd names, parts of a hierarchy (containers), and a group of jobd's own beside the jobs."""
    mountinfo = (
        "31 1 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        "36 31 0:33 /docker/abc /sys/fs/cgroup/cpu\\040acct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "37 31 0:34 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
        "41 31 0:38 / /nowhere/unified rw - cgroup2 cgroup2 rw\n"
    )
    membership = "3:cpu,cpuacct:/docker/abc/x\n1:name=systemd:/y\n0::/system.slice/jobd.service/supervisor\n"
    found = hierarchies(mountinfo, membership)
    assert found == [
        Hierarchy(1, frozenset({"cpu", "cpuacct"}), Path("/sys/fs/cgroup/cpu acct/x")),
        Hierarchy(2, frozenset(), Path("/nowhere/unified/system.slice/jobd.service")),
    ]


def test_looking_for_groups_leaves_those_of_another_jobd_alone(tmp_path: Path) -> None:
    """The directory for the jobs may be another's, with the same name, which is about to put a job there."""
    (tmp_path / "jobd").mkdir()
    assert control_groups("jobd", [Hierarchy(1, frozenset({"pids"}), tmp_path)]) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["jobd"]


def test_why_there_are_no_groups_is_said(tmp_path: Path) -> None:
    """Each hierarchy in which none can be made, with the kernel's reason."""
    problems: list[str] = []
    nowhere = tmp_path / "nowhere"
    assert control_groups("jobd", [Hierarchy(2, frozenset({"pids"}), nowhere)], problems=problems) is None
    assert problems == [f"no control group can be made in {nowhere}: No such file or directory"]
    assert Walk(problems).weaknesses == (*Walk().weaknesses, *problems)


def test_why_controllers_cannot_be_had_is_said(tmp_path: Path) -> None:
    """Jobs are held together all the same; who wonders why there are no limits learns the kernel's reason."""
    (tmp_path / "cgroup.subtree_control").mkdir()  # it cannot be written
    found = control_groups("jobd", [Hierarchy(2, frozenset({"pids"}), tmp_path)])
    assert found is not None
    assert found.limits == frozenset()
    assert found.weaknesses == (
        "these limits cannot be held here: cpu_weight, cpus, memory, processes (Is a directory)",
    )
