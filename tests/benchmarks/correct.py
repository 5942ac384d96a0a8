"""A run that was not correct raises: its numbers mean nothing."""

from __future__ import annotations


class IncorrectRunError(Exception):
    """A job did not end as it should, or its output is not what it wrote."""


def check(truth: bool, message: str) -> None:
    """Make a run that was not correct fail.

    Raises:
        IncorrectRunError: it was not.
    """
    if not truth:
        raise IncorrectRunError(message)
