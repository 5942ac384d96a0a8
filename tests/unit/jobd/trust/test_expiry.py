"""When the log says that something ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.typing import EventDict

from jobd.trust.expiry import Term, tell

DAY = timedelta(days=1)
START = datetime(2030, 1, 1, tzinfo=UTC)


def term(days: int) -> Term:
    return Term("ca", "a thing", Path("file"), START, START + days * DAY)


@pytest.mark.parametrize(("days", "silent"), [(90, 76), (42, 28), (9, 6)])
def test_two_weeks_before_or_in_the_last_third(days: int, silent: int, log_guard: list[EventDict]) -> None:
    """Whichever is later: what is signed for nine days is not told of every day of them."""
    moment = START + silent * DAY
    tell([term(days)], moment - timedelta(seconds=1))
    assert log_guard == []
    tell([term(days)], moment)
    [line] = log_guard
    assert (line["log_level"], line["what"], line["file"]) == ("warning", "a thing", "file")
    assert line["hours_left"] == (days - silent) * 24


def test_what_has_ended_is_an_error(log_guard: list[EventDict], errors_expected: list[EventDict]) -> None:
    """From its last second on."""
    tell([term(90)], START + 90 * DAY)
    assert [line["log_level"] for line in log_guard] == ["error"]


def test_it_is_told_again_daily_and_when_something_changes() -> None:
    """At the next moment at which there is something to say."""
    assert tell([term(90)], START) == START + DAY
    assert tell([term(90)], START + 75.5 * DAY) == START + 76 * DAY
    assert tell([term(90)], START + 76 * DAY) == START + 77 * DAY
    assert tell([term(90), term(77)], START + 76.9 * DAY) == START + 77 * DAY
