"""What a command returns: facts to print, and how to exit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pki.describe import Facts

EXPIRES: Final = 3
"""The exit status of a command that was asked what expires soon, and found something."""


@dataclass(frozen=True, slots=True)
class Report:
    """What is printed: with ``--json`` one object a line, else each fact on a line, or each object on one.

    Attributes:
        facts: the objects.
        line: how one object is told on one line; None for a fact a line.
        status: the exit status.
    """

    facts: Sequence[Facts]
    line: Callable[[Facts], str] | None = None
    status: int = 0
