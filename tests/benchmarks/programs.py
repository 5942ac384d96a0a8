"""Measurements of whole programs, as a shell would run them: their output comes through a pipe."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final

from tests.benchmarks.correct import check
from tests.benchmarks.measurements import CLOCK, LineAges
from tests.benchmarks.payload import MIB, Kept, have_memory

SPLICED: Final = 2**20


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> float:
    """Milliseconds from before the program is started until it has ended with code 0."""
    begin = time.perf_counter()
    ended = subprocess.run(command, env=environment, capture_output=True, check=False)
    seconds = time.perf_counter() - begin
    check(ended.returncode == 0, f"{command} ended with {ended.returncode}: {ended.stderr!r}")
    return seconds * 1e3


def stream(
    command: Sequence[str], size: int, came: Kept, expected: bytes, environment: Mapping[str, str] | None = None
) -> float:
    """MiB a second of what the program writes, from its start to its end.

    Args:
        came: room for all of it.
        expected: its hash.
    """
    came.begin()
    have_memory(size)
    begin = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, pipesize=SPLICED) as process:
        assert process.stdout is not None
        while came.splice(process.stdout.fileno()):
            pass
        code = process.wait()
    seconds = time.perf_counter() - begin
    check(code == 0, f"{command}: code {code}")
    came.judge(expected, f"{command}")
    return size / MIB / seconds


def latencies(
    command: Sequence[str], lines: int, interval: float, environment: Mapping[str, str] | None = None
) -> list[float]:
    """Milliseconds from the moment at which a remote program writes a line until we have it, in order of size.

    Args:
        command: what runs the words that are added to it elsewhere, as ``ssh host`` and ``jobcli run --`` do.
    """
    ages = LineAges()
    encoded = base64.b64encode(CLOCK.encode()).decode()
    script = f"import base64; exec(base64.b64decode('{encoded}'))"  # one word for any shell that takes it apart
    words = [sys.executable, "-S", "-c", f'"{script}"' if command[0] == "ssh" else script, str(lines), str(interval)]
    with subprocess.Popen([*command, *words], env=environment, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        while piece := os.read(process.stdout.fileno(), SPLICED):
            ages.read(piece)
        check(process.wait() == 0, f"{command} ended with {process.returncode}")
    return sorted(ages.all_of(lines))
