"""Logs: one line for each event on stderr; readable on a terminal, JSON otherwise."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from api.call_context import current

log = structlog.get_logger(__name__)

MAX_SHOWN: Final = 512
"""Characters of what a caller calls its jobs; it can be a whole message."""
_configured: tuple[Processor, ...] = ()
"""The processors that :func:`configure` has made, if they write JSON, and lines of the level info are wanted."""


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


def about_the_call(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Say which call it was said of, and of which job and trace, if that is not said."""
    call = current()
    # What is said of a job that is supervised is bound there: whichever call has begun that.
    if call and "job" not in structlog.contextvars.get_contextvars():
        known = {"call_id": call.id, "trace_id": call.trace_id, "job": call.job_id[:MAX_SHOWN]}
        for key, value in known.items():
            if value:
                event.setdefault(key, value)
    return event


def _escaped(text: str, key: str) -> str:
    if text.isprintable():
        return text
    kept = "\n" if key == "exception" else ""
    return "".join(char if char.isprintable() or char in kept else ascii(char)[1:-1] for char in text)


def _say_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    log.warning("a warning of Python's", text=str(message), kind=category.__name__)


def configure(level: str) -> None:
    """Set up logging for this process. Python's own warnings go there, too."""
    global _configured
    warnings.showwarning = _say_warning
    # Said by who parses a certificate with a name that is too long, or none: any client can send one, and is refused.
    warnings.filterwarnings("ignore", message="Attribute's length must be", category=UserWarning)
    terminal = sys.stderr.isatty()
    number = logging.getLevelNamesMapping()[level.upper()]
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        about_the_call,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        *((printable, structlog.dev.ConsoleRenderer()) if terminal else (structlog.processors.JSONRenderer(),)),
    ]
    _configured = () if terminal or number > logging.INFO else tuple(processors)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Unfailing())),
        cache_logger_on_first_use=True,
    )


def info_lines(event: str) -> Callable[[str], None] | None:
    """How to say this event so often that structlog's chain would be most of the work.

    Returns:
        takes the facts as the members of a JSON object, without its braces, and writes the line that structlog would
        write; None when lines have another form here, or are not wanted.
    """
    if not _configured or tuple(structlog.get_config()["processors"]) != _configured:
        return None
    tail = f', "event": "{event}", "level": "info", "timestamp": "'
    stderr = _Unfailing()

    def write(facts: str) -> None:
        now = datetime.now(UTC).isoformat().removesuffix("+00:00")
        stderr.write(f'{{{facts}{tail}{now}Z"}}\n')
        stderr.flush()

    return write
