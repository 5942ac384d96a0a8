"""What ``nox -s hostile`` runs, a little of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.daemon import ROOT
from tests.support.patience import patient


@pytest.mark.parametrize("attack", ["a window update of nothing", "silent connections"])
def test_an_attack_is_a_row_of_the_table(attack: str) -> None:
    """With its answer, the neighbour's latencies and the server's memory; and nothing is wrong."""
    command = [sys.executable, "-m", "tests.hostile", "--only", attack, "--seconds", "0.3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=patient(60), check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    [row] = [line for line in done.stdout.splitlines() if line.startswith(f"| {attack}")]
    name, answer, *numbers = row.strip("| ").split(" | ")
    assert (name, answer.split()[0]) == (attack, "GOAWAY" if "window" in attack else "closed:")
    assert len(numbers) == 7
    assert all(float(number) >= 0 for number in numbers)
