"""What reaches the terminal: escaped, one fact a line."""

from __future__ import annotations

import json
from typing import TextIO

from pki.names import printable
from pki.report import Report


def say(text: str, stream: TextIO | None) -> None:
    """Print one line in which nothing can steer the terminal, in whatever encoding the stream has.

    A stream that was closed before the program began is None, and gets nothing.

    Raises:
        OSError: the stream takes no more.
    """
    if stream is None:
        return
    encoding = stream.encoding or "utf-8"
    print(printable(text).encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def show_report(report: Report, stream: TextIO | None, *, as_json: bool) -> None:
    """Print a report for a person, or as one JSON object a line (in ASCII, so escaped as well)."""
    for position, facts in enumerate(report.facts):
        if as_json:
            say(json.dumps(facts), stream)
        elif report.line is not None:
            say(report.line(facts), stream)
        else:
            if position:
                say("", stream)
            for key, value in facts.items():
                say(f"{key.replace('_', ' ')}: {_text(value)}", stream)


def _text(value: str | int | list[str] | None) -> str:
    match value:
        case list():
            return ", ".join(value) or "none"
        case bool():
            return "yes" if value else "no"
        case None:
            return "none"
        case _:
            return str(value) or "none"
