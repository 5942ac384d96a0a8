"""The runbook has a row for everything that jobd says, and for nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.support.documents import ROOT
from tests.support.said import job_reasons, launcher_lines, loud_events, reasons

RUNBOOK = (ROOT / "docs/runbook.md").read_text()


def rows(title: str) -> dict[str, tuple[str, ...]]:
    """The rows of a section, by what stands in front."""
    _, _, section = RUNBOOK.partition(f"\n## {title}\n")
    found = re.findall(r"^\| `(.+?)` \| (.+) \| (.+) \|$", section.partition("\n## ")[0], re.MULTILINE)
    assert len({said for said, *_ in found}) == len(found), "something stands there twice"
    return {said: tuple(rest) for said, *rest in found}


@pytest.mark.parametrize(
    ("title", "said"),
    [
        ("Events of the log", loud_events),
        ("Lines of the launcher", launcher_lines),
        ("Reasons of errors", reasons),
        ("Reasons of jobs", job_reasons),
    ],
)
def test_everything_that_is_said_has_a_row_with_what_to_do(title: str, said: Callable[[], set[str]]) -> None:
    """And each row is of something that is said: the rest of the table would not be believed."""
    found, wanted = rows(title), said()
    assert len(wanted) > 10
    assert wanted - found.keys() == set(), "has no row"
    assert found.keys() - wanted == set(), "is never said"
    assert all(meaning and todo for meaning, todo in found.values())
