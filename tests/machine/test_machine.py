"""The machine is what it was made to be."""

from __future__ import annotations

import subprocess
from pathlib import Path


def test_control_groups_are_of_version_2_alone_and_have_controllers() -> None:
    """Without this, none of the others would show anything."""
    mounted = [line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()]
    assert "cgroup" not in mounted
    controllers = Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
    assert {"cpu", "io", "memory", "pids"} <= set(controllers)


def test_systemd_is_process_1() -> None:
    """And has started all that it was to."""
    assert Path("/proc/1/comm").read_text() == "systemd\n"
    done = subprocess.run(
        ["systemctl", "--failed", "--plain", "--no-legend"], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
