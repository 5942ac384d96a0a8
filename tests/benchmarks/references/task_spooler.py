"""Debian's task-spooler: a queue of this machine alone, without a network, and nothing that has to survive a crash."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.benchmarks.correct import check

LOOP = 'for number in $(seq "$1"); do "$2" -f /bin/true || exit 1; done'
"""Each job waited for, and its exit code is the client's."""


def program() -> str | None:
    """Debian's name for it; elsewhere it is ``ts``, which is another program there."""
    return shutil.which("tsp")


def jobs(scratch: Path, count: int, at_once: int) -> float:
    """Jobs a second, so many at a time, by a server of its own.

    Raises:
        IncorrectRunError: one failed.
    """
    tsp = program()
    assert tsp
    with tempfile.TemporaryDirectory(dir=scratch) as own:
        environment = {**os.environ, "TS_SOCKET": f"{own}/socket", "TMPDIR": own}
        subprocess.run([tsp, "-S", str(at_once)], env=environment, check=True, capture_output=True)
        try:
            command = ["sh", "-c", LOOP, "loop", str(count // at_once), tsp]
            begin = time.perf_counter()
            loops = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(at_once)]
            codes = [loop.wait() for loop in loops]
            seconds = time.perf_counter() - begin
        finally:
            subprocess.run([tsp, "-K"], env=environment, check=True)
    check(not any(codes), f"jobs of task-spooler failed: {codes}")
    return count / seconds
