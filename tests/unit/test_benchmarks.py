"""A measured run that was not correct gives no figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import programs
from tests.benchmarks.correct import IncorrectRunError
from tests.benchmarks.goals import Goal
from tests.benchmarks.measurements import LineAges
from tests.benchmarks.payload import MIB, digest, kept, make, written_by


def test_what_was_written_is_what_has_to_come(tmp_path: Path) -> None:
    """Through a pipe, without a look at it, and by hand."""
    payload = make(tmp_path / "payload", 2)
    size = MIB + 1
    with kept(size) as came:
        assert programs.stream(written_by(payload, size), size, came, digest(payload, size)) > 0
        came.begin()
        came.take(payload.read_bytes()[:size])
        came.judge(digest(payload, size))


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ('head -c 1048576 "$0"; exit 3', "code 3"),
        ('head -c 1048575 "$0"', "1048575 bytes came of 1048576"),
        ('head -c 1048577 "$0"', "more than 1048576"),
        ('tail -c 1048576 "$0"', "another hash"),
        ('head -c 524288 "$0"; head -c 524288 "$0"', "another hash"),
    ],
)
def test_a_stream_that_is_another_is_refused(script: str, why: str, tmp_path: Path) -> None:
    """By its exit code, its length, and its hash."""
    payload = make(tmp_path / "payload", 2)
    with kept(MIB) as came, pytest.raises(IncorrectRunError, match=why):
        programs.stream(["sh", "-c", script, str(payload)], MIB, came, digest(payload, MIB))


@pytest.mark.parametrize("lines", [b"1\n", b"1\n2\n3\n", b"1\n2\n3"])
def test_lines_that_did_not_come_are_missed(lines: bytes) -> None:
    """Too few, too many, or not whole."""
    ages = LineAges()
    ages.read(lines)
    with pytest.raises(IncorrectRunError):
        ages.all_of(2)


def test_a_cold_run_that_fails_is_no_figure() -> None:
    """Its exit code is looked at."""
    with pytest.raises(IncorrectRunError, match="ended with 1"):
        programs.run(["false"])


@pytest.mark.parametrize("rounds", ["0", "-1", "some"])
def test_no_round_at_all_is_refused(rounds: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing would be wrong in it."""
    pytest.importorskip("grpc")  # of another group of dependencies, like the references
    from tests.benchmarks.__main__ import main

    with pytest.raises(SystemExit):
        main(["--only", "goals", "--rounds", rounds])
    assert "--rounds" in capsys.readouterr().err


def test_a_goal_is_judged_by_the_rounds_own_ratios() -> None:
    """In a round in which the machine is twice as slow, it is for both: medians of either would say 1.5."""
    goal = Goal("ours", "theirs", 2, "least")
    row = goal.row({"ours": [20.0, 10.0, 15.0], "theirs": [10.0, 5.0, 10.0], "least": [40.0, 20.0, 20.0]})
    assert row == "| ours to theirs | 2.00 | ≥ 2: met | least | 4.00 | 0.50 |"
