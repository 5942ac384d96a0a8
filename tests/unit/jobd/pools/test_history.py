"""The checker of histories finds what cannot be, and nothing in what can."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.history import (
    UNKNOWN,
    Lost,
    Mark,
    Operation,
    Seen,
    Stop,
    Stream,
    Submit,
    Wrong,
    check,
    read,
    write,
)

GOOD: list[Operation] = [
    # ran, and was asked for twice
    Submit(began=0, ended=1, request="a", job=UNKNOWN),
    Submit(began=1, ended=2, request="a", job="A"),
    Mark(at=3, request="a", what="began", machine="m1"),
    Seen(at=4, job="A", state="running"),
    Seen(at=5, job="A", state="unreachable"),
    Mark(at=6, request="a", what="exit 3", machine="m1"),
    Seen(at=9, job="A", state="failed", outcome="exit 3", final=True),
    Stream(at=9, job="A", digest="x", expected="x"),
    # stopped before it ran
    Submit(began=0, ended=1, request="b", job="B"),
    Stop(began=2, ended=3, job="B", answer="stopped"),
    Seen(at=9, job="B", state="stopped", final=True),
    # its machine was rebooted
    Submit(began=0, ended=1, request="c", job="C"),
    Mark(at=2, request="c", what="began", machine="m2"),
    Lost(at=3, machine="m2"),
    Seen(at=9, job="C", state="lost", final=True),
    Stream(at=9, job="C", digest="x", expected="xy", dropped=1),
    # its launcher died before its process could say whose it is
    Submit(began=0, ended=1, request="g", job="G"),
    Lost(at=3, machine="m4"),
    Mark(at=3, request="g", what="began"),
    Seen(at=9, job="G", state="lost", final=True),
    # refused, and not there; never answered, and there
    Submit(began=0, ended=1, request="d", job=""),
    Submit(began=0, ended=1, request="e", job=UNKNOWN),
    Mark(at=3, request="e", what="began", machine="m1"),
    Mark(at=4, request="e", what="exit 0", machine="m1"),
    Seen(at=9, job="E", state="succeeded", outcome="exit 0", final=True),
    # asked to be run again when it is lost, and forgotten; it was stopped while it ran
    Submit(began=0, ended=1, request="f", job="F", retries=1),
    Mark(at=2, request="f", what="began", machine="m1"),
    Lost(at=3, job="F"),
    Mark(at=4, request="f", what="began", machine="m3"),
    Stop(began=5, ended=6, job="F", answer="stopped"),
    Mark(at=6, request="f", what="signal 15", machine="m3"),
    Seen(at=9, job="F", state="stopped", outcome="signal 15", final=True),
]


def test_what_can_be_is_not_wrong() -> None:
    """In any order of writing down."""
    assert check(GOOD) == []
    assert check(reversed(GOOD)) == []


def test_who_alone_knew_of_an_end_may_be_gone() -> None:
    """A worker tells of an end a moment before the pool has it; without it the job is unreachable, which is no end."""
    assert check([*GOOD, Seen(at=6.5, job="A", state="failed", outcome="exit 3"), UNKNOWN_FOR_A_WHILE]) == []


UNKNOWN_FOR_A_WHILE = Seen(at=6.7, job="A", state="unreachable")


def without(*of: object) -> Callable[[list[Operation]], list[Operation]]:
    return lambda history: [each for each in history if each not in of]


def with_(*more: Operation) -> Callable[[list[Operation]], list[Operation]]:
    return lambda history: [*history, *more]


def instead(old: Operation, **changes: object) -> Callable[[list[Operation]], list[Operation]]:
    return lambda history: [replace(each, **changes) if each == old else each for each in history]  # type: ignore[arg-type]


A_BEGAN, A_ENDED, A_SEEN, A_READ = GOOD[2], GOOD[5], GOOD[6], GOOD[7]
B_STOP, B_SEEN = GOOD[9], GOOD[10]
C_LOST = GOOD[13]
F_SUBMIT, F_SEEN = GOOD[25], GOOD[-1]
NOT_LOST = Wrong("C", "is lost, and nothing has happened that could lose it")
CASES: dict[str, tuple[Callable[[list[Operation]], list[Operation]], Wrong]] = {
    "run twice": (with_(Mark(at=7, request="a", what="began", machine="m2")), Wrong("a", "was started 2 times")),
    "run again without having asked for it": (instead(F_SUBMIT, retries=0), Wrong("f", "was started 2 times")),
    "run a third time": (with_(Mark(at=5, request="f", what="began")), Wrong("f", "was started 3 times")),
    "gone": (instead(A_SEEN, state="missing", outcome=""), Wrong("A", "was acknowledged, and is not there")),
    "not looked for": (
        without(A_SEEN),
        Wrong("A", "was acknowledged, and nobody has looked for it in the end"),
    ),
    "two jobs": (with_(Submit(began=3, ended=4, request="a", job="A2")), Wrong("a", "one request is 2 jobs")),
    "refused and run": (
        with_(Mark(at=3, request="d", what="began")),
        Wrong("d", "ran, though every Start was refused"),
    ),
    "unasked": (with_(Mark(at=3, request="z", what="began")), Wrong("z", "ran, and nobody asked for it")),
    "ended unbegun": (without(A_BEGAN), Wrong("a", "ended without a beginning")),
    "never ran": (without(A_BEGAN, A_ENDED), Wrong("A", "is failed, and never ran")),
    "another end": (
        instead(A_SEEN, outcome="exit 0"),
        Wrong("A", "is said to have ended with exit 0, and ended with exit 3"),
    ),
    "an end that was made up": (without(A_ENDED), Wrong("A", "is said to have ended with exit 3, and has not ended")),
    "an end that changes": (
        with_(Seen(at=7, job="A", state="succeeded", outcome="exit 3")),
        Wrong("A", "was succeeded (exit 3), and then failed (exit 3)"),
    ),
    "back from an end": (
        with_(Seen(at=10, job="A", state="running")),
        Wrong("A", "was failed (exit 3), and then running"),
    ),
    "for ever": (
        instead(A_SEEN, state="unreachable", outcome=""),
        Wrong("A", "is unreachable, though everybody has come back"),
    ),
    "run after a stop": (
        with_(Mark(at=4, request="b", what="began")),
        Wrong("B", "was started after a Stop was answered with stopped"),
    ),
    "stopped, and something else": (
        instead(B_SEEN, state="lost"),
        Wrong("B", "was stopped to who stopped it, and is lost"),
    ),
    "stopped by nobody": (without(B_STOP), Wrong("B", "is stopped, and nobody wanted that")),
    "lost by nothing": (without(C_LOST), NOT_LOST),
    "lost by what came later": (
        instead(C_LOST, at=99),
        NOT_LOST,
    ),
    "lost by another machine": (
        instead(C_LOST, machine="m1"),
        NOT_LOST,
    ),
    "other bytes": (
        instead(A_READ, digest="y"),
        Wrong("A", "has other output than it wrote, and says nothing of it"),
    ),
    "a job from nowhere": (
        lambda history: [
            each for each in history if UNKNOWN not in (getattr(each, "job", ""), getattr(each, "request", ""))
        ],
        Wrong("E", "is there, and nobody asked for it"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_is_found(name: str) -> None:
    """Each in a history in which all else is well."""
    change, wrong = CASES[name]
    assert wrong in check(change(list(GOOD)))


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    """In pieces, by whoever sees something."""
    path = tmp_path / "history"
    write(path, GOOD[:5])
    write(path, GOOD[5:])
    assert read(path) == GOOD


@pytest.mark.parametrize(
    "line", ["", "{", "[]", "{}", '{"kind":"Other"}', '{"kind":"Mark","at":1}', '{"kind":"Lost","x":1}']
)
def test_a_history_that_cannot_be_read_proves_nothing(tmp_path: Path, line: str) -> None:
    """It is an error, and not an empty one."""
    path = tmp_path / "history"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match="line 1 of the history"):
        read(path)
