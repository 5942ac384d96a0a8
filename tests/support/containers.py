"""The control groups that this machine has, for tests of what holds jobs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from jobd.limits.hierarchies import Hierarchy, hierarchies
from tests.support.patience import patient

SECONDS = patient(20)
DAEMON = f"jobd-test-{os.getpid()}"


def present() -> list[Hierarchy]:
    return hierarchies(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())


def remove_all(name: str) -> None:
    """Remove what a test's containment made for the daemon as a whole."""
    for hierarchy in present():
        with contextlib.suppress(OSError):
            (hierarchy.base / name).rmdir()


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that comes soon."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)
