"""Whether the table is judged: each thing that can be wrong with an attack is said, and nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from tests.hostile.__main__ import is_clean
from tests.hostile.expected import STATISTICS, Expected
from tests.hostile.neighbour import Latencies
from tests.hostile.row import CEILING, GROWTH, HEAD, Row
from tests.support.metrics import Samples

SERVED = Latencies(calls=100, p50=1.0, p99=9.0, failed=0)
OFFENCES = ("jobd_stream_offences_total", frozenset[tuple[str, str]]())


def counts(grown: float) -> tuple[Samples, Samples]:
    return {OFFENCES: 5.0}, {OFFENCES: 5.0 + grown}


GOOD = Row(
    name="an attack",
    expected=Expected({"A": 2, "B": 1}, frozenset({"C"}), either=4, counted={"A": STATISTICS["offences"]}),
    answers=Counter({"A": 3, "B": 1}),
    quiet=SERVED,
    beside=SERVED,
    memory=(1000, 90_000, 1100),
    counts=counts(4),
)


def test_what_is_as_it_should_be_is_not_said() -> None:
    """Also with an answer that may be, and is."""
    assert GOOD.wrong() == []
    assert replace(GOOD, answers=GOOD.answers + Counter("C")).wrong() == []
    assert len(GOOD.cells()) == len(HEAD)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"answers": Counter({"A": 4})}, "0 answers are B, and not 1 at the least"),
        ({"answers": Counter({"A": 1, "B": 3})}, "1 answers are A, and not 2 at the least"),
        ({"answers": Counter({"A": 2, "B": 1})}, "3 answers, and not 4 at the least"),
        ({"answers": Counter({"A": 3, "B": 1, "D": 2})}, "2 answers are D"),
        ({"counts": counts(2)}, "jobd_stream_offences_total grew by 2, and not by 3 at the least"),
        ({"counts": ({}, {})}, "jobd_stream_offences_total grew by 0, and not by 3 at the least"),
        ({"beside": replace(SERVED, failed=2)}, "2 calls of the neighbour failed"),
        ({"quiet": replace(SERVED, failed=1)}, "1 calls of the neighbour failed"),
        ({"beside": replace(SERVED, calls=0)}, "the neighbour was not served"),
        ({"beside": replace(SERVED, p99=CEILING + 1)}, f"waited {CEILING + 1:.0f} ms, and {CEILING:.0f} are too many"),
        ({"memory": (1000, 90_000, 1001 + GROWTH)}, "memory was not given back"),
    ],
)
def test_what_is_wrong_is_said(changed: dict[str, Any], said: str) -> None:
    """One thing at a time, and that alone."""
    [found] = replace(GOOD, **changed).wrong()
    assert said in found


@pytest.mark.parametrize(
    "line", ['{"a": "\x1b[2J"}', '{"a": 1}\r', "a warning", "[]", '{"a": "' + "x" * 5000 + '"}', ""]
)
def test_a_line_of_the_log_that_is_none_is_seen(line: str) -> None:
    """What would move a cursor, what is not JSON, what is too long."""
    assert not is_clean(line)
    assert is_clean('{"event": "x"}')
