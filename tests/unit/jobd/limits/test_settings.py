"""What a job may use is told to the kernel, and what it has used is what the kernel counted."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from jobd.limits.groups import ControlGroups
from jobd.limits.hierarchies import Hierarchy
from jobd.limits.settings import V1_IO, usage
from jobd.worker.containment import Containment, Limits, Usage
from tests.support.containers import until

V2_SHARES = {"cpu.max": "50000 100000", "cpu.weight": "200"}
SHARES = {**V2_SHARES, "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000", "cpu.shares": "2048"}
"""Half a processor, and twice the weight of others."""


def test_the_limit_of_processes_holds(containment: Containment) -> None:
    """Where it can be held, the kernel refuses to fork beyond it."""
    if "processes" not in containment.limits:
        pytest.skip(f"{containment.name} has no controller for it here")
    container = containment.create(str(uuid.uuid4()), Limits(processes=5))
    entrances = "; ".join(f"echo 0 > {entrance}" for entrance in container.entrances)
    script = f"{entrances}; for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done"
    with subprocess.Popen(["sh", "-c", script], stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stderr is not None
        assert b"fork" in process.stderr.readline()
        assert 1 <= len(container.members()) <= 5
        container.kill()
    until(container.is_empty)
    peak = container.usage().processes_peak
    assert peak is None or peak >= 5  # before Linux 6.1 nobody counts it
    container.remove()


def test_a_share_of_processors_is_told_to_the_kernel(containment: Containment) -> None:
    """How much at the most, and its weight beside others, as the version of its control groups has them."""
    if not {"cpus", "cpu_weight"} <= containment.limits:
        pytest.skip(f"{containment.name} has no controller for it here")
    container = containment.create(str(uuid.uuid4()), Limits(cpus=0.5, cpu_weight=200))
    files = [path for entrance in container.entrances for path in Path(entrance).parent.iterdir()]
    told = {path.name: path.read_text().strip() for path in files if path.name in SHARES}
    assert told == {name: text for name, text in SHARES.items() if (name in V2_SHARES) == ("cpu.max" in told)}
    container.remove()


def test_what_is_used_is_counted(
    containment: Containment, run: Callable[[str], tuple[subprocess.Popen[bytes], str]], tmp_path: Path
) -> None:
    """Processor time; and bytes from and to disks where the kernel counts them. Without control groups, nothing is."""
    disk = f"dd bs=1M count=4 oflag=direct if=/dev/zero of={tmp_path}/file; dd bs=1M iflag=direct if={tmp_path}/file"
    process, job_id = run(f"({disk}) > /dev/null 2>&1 && echo ready; exec sleep 1000")
    used = containment.find(job_id, process.pid).usage()
    process.kill()
    if containment.name == "none":
        assert used == Usage()
        return
    assert used.cpu
    for counted in (used.read, used.written):
        assert counted is None or counted >= 4 * 2**20


@pytest.mark.parametrize(("above", "used"), [("8:0 Read 1\nTotal 1\n", (0, 0)), ("Total 0\n", (None, None))])
def test_who_does_not_count_says_0_of_everybody(
    tmp_path: Path, above: str, used: tuple[int | None, int | None]
) -> None:
    """Version 1 has the file whether or not the kernel counts: what nobody counted is not 0 bytes."""
    job = tmp_path / "jobd" / "job"
    job.mkdir(parents=True)
    for directory, text in ((tmp_path, above), (job.parent, "Total 0\n"), (job, "Total 0\n")):
        (directory / V1_IO).write_text(text)
    found = usage({"blkio": (1, str(job))})
    assert (found.read, found.written) == used


@pytest.mark.parametrize(("above", "groups"), [("8:0 Read 1\nTotal 1\n", 2), ("Total 0\n", 1)])
def test_what_counts_nothing_gets_no_groups(tmp_path: Path, above: str, groups: int) -> None:
    """Each group costs a job its making, its entering and its removal."""
    assert len(_blkio(tmp_path, above).create("id", Limits()).entrances) == groups


def test_what_was_counted_later_is_told(tmp_path: Path) -> None:
    """In a new machine, or container, nobody has read a disk yet."""
    groups = _blkio(tmp_path, "Total 0\n")
    group = groups.create("id", Limits())
    job = tmp_path / "blkio" / "jobs" / "id"
    job.mkdir(parents=True)
    for directory in (tmp_path / "blkio", job):
        (directory / V1_IO).write_text("8:0 Read 7\nTotal 7\n")
    used = group.usage()
    assert (used.read, used.written) == (7, 0)


def test_what_an_earlier_server_made_where_nothing_is_counted_is_removed(tmp_path: Path) -> None:
    """One that makes a group for each job there."""
    groups = _blkio(tmp_path, "Total 0\n")
    for hierarchy in ("unified", "blkio"):
        (tmp_path / hierarchy / "jobs" / "id").mkdir(parents=True)
    groups.find("id", 1).remove()
    groups.close()
    assert list(tmp_path.rglob("jobs*")) == []


def _blkio(directory: Path, above: str) -> ControlGroups:
    tree, counting = directory / "unified", directory / "blkio"
    for each in (tree, counting):
        each.mkdir()
    (counting / V1_IO).write_text(above)
    return ControlGroups(Hierarchy(2, frozenset(), tree), [Hierarchy(1, frozenset({"blkio"}), counting)], "jobs")


def test_running_out_of_memory_is_told_apart(containment: Containment) -> None:
    """Where memory is limited, the kernel's kill is counted; a SIGKILL of somebody else is not."""
    if "memory" not in containment.limits:
        pytest.skip(f"{containment.name} has no controller for it here")
    counts = []
    for script in ("x = bytearray(100_000_000)", "import os; os.kill(os.getpid(), 9)"):
        container = containment.create(str(uuid.uuid4()), Limits(memory=30_000_000))
        entrances = "; ".join(f"echo 0 > {entrance}" for entrance in container.entrances)
        done = subprocess.run(["sh", "-c", f'{entrances}; exec {sys.executable} -c "$0"', script], check=False)
        assert done.returncode == -signal.SIGKILL
        usage = container.usage()
        assert usage.memory_peak is not None
        assert usage.cpu is None or usage.cpu > 0
        counts.append(usage.out_of_memory > 0)
        until(container.is_empty)
        container.remove()
    assert counts == [True, False]
