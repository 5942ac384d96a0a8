"""Logs: one line for each event on stderr; readable on a terminal, JSON otherwise."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, WrappedLogger


class _Unfailing:
    """Stderr as a file that never raises: calls and jobs do not depend on whether anybody reads the log."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


def printable(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Escape what would move the cursor, or worse: some texts are as a client sent them. (JSON escapes by itself.)"""
    return {key: _escaped(value, key) if isinstance(value, str) else value for key, value in event.items()}


def _escaped(text: str, key: str) -> str:
    if text.isprintable():
        return text
    kept = "\n" if key == "exception" else ""
    return "".join(char if char.isprintable() or char in kept else ascii(char)[1:-1] for char in text)


def configure(level: str) -> None:
    """Set up logging for this process."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *((printable, structlog.dev.ConsoleRenderer()) if terminal else (structlog.processors.JSONRenderer(),)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Unfailing())),
        cache_logger_on_first_use=True,
    )
