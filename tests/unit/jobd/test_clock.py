"""What ``jobd check`` says of the machine's clock."""

from __future__ import annotations

import errno
import os

import pytest

from jobd.check import machine
from jobd.check.cli import findings
from jobd.check.finding import Finding, Verdict
from jobd.config import load

TIME_ERROR = 5
"""adjtimex(2)."""


def said_of_the_clock() -> list[Finding]:
    config = load(dict.fromkeys(("cert", "key", "ca", "state"), "/nowhere"), {}, None)
    return [each for each in findings(config) if each.about == "clock"]


@pytest.mark.parametrize(
    ("state", "verdict", "words"),
    [
        (TIME_ERROR, Verdict.WEAK, "nobody keeps it right (adjtimex(2)): certificates and revocation lists"),
        (0, Verdict.GOOD, "it is kept right"),
        (1, Verdict.GOOD, "it is kept right"),  # a second will be put in
    ],
)
def test_a_clock_that_nobody_keeps_right_is_weak(
    monkeypatch: pytest.MonkeyPatch, state: int, verdict: Verdict, words: str
) -> None:
    """Whatever this machine's is: the kernel's answer is given."""
    monkeypatch.setattr(machine, "clock_state", lambda: state)
    [found] = said_of_the_clock()
    assert found.verdict is verdict
    assert found.says.startswith(words)


def test_a_clock_that_may_not_be_asked_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that forbids the call: silence would be taken for approval."""

    def forbidden() -> int:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), "adjtimex(2)")

    monkeypatch.setattr(machine, "clock_state", forbidden)
    [found] = said_of_the_clock()
    assert found == Finding(Verdict.WEAK, "clock", "it could not be looked at: adjtimex(2) Operation not permitted")


def test_the_kernel_is_asked() -> None:
    """And answers with one of its states."""
    assert machine.clock_state() in range(6)
