"""What ``nox -s hostile`` runs, a little of it."""

from __future__ import annotations

import subprocess
import sys

from tests.support.daemon import ROOT
from tests.support.patience import patient


def test_each_attack_is_a_row_of_the_table() -> None:
    """With its answer, the metric that counts it, the neighbour's latencies, and memory; nothing is wrong."""
    wanted = {
        "silent connections": ("closed", "jobd_handshakes_failed_total +"),
        "a window update of nothing": ("GOAWAY PROTOCOL_ERROR", "jobd_connections_cut_total protocol +"),
    }
    only = [text for name in wanted for text in ("--only", name)]
    command = [sys.executable, "-m", "tests.hostile", *only, "--seconds", str(patient(0.3))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=patient(60), check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in rows] == list(wanted)
    for name, answer, counted, *numbers in rows:
        assert answer.startswith(wanted[name][0])
        assert counted.startswith(wanted[name][1])
        assert len(numbers) == 7
        assert all(float(number) >= 0 for number in numbers)
