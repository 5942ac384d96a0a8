"""What is found when settings and machine are looked at."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from api.errors import JobdError


class Verdict(enum.StrEnum):
    """How it stands with one thing."""

    GOOD = "good"
    WEAK = "weak"
    """jobd works, and something of it is less than it could be."""
    UNTRIED = "untried"
    """A jobd that runs has what would have to be taken to know."""
    WRONG = "wrong"
    """jobd does not start, or not do what it is told to."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact.

    Attributes:
        about: what was looked at, in a word or two.
        says: what was found, and what to do if that is not good.
    """

    verdict: Verdict
    about: str
    says: str


def good(about: str, says: str) -> Finding:
    return Finding(Verdict.GOOD, about, says)


def weak(about: str, says: str) -> Finding:
    return Finding(Verdict.WEAK, about, says)


def untried(about: str, says: str) -> Finding:
    return Finding(Verdict.UNTRIED, about, says)


def wrong(about: str, says: str | JobdError) -> Finding:
    return Finding(Verdict.WRONG, about, str(says))


Findings = Iterator[Finding]
