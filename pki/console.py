"""What reaches the terminal: escaped, one fact a line."""

from __future__ import annotations

import json
from typing import TextIO

from pki.describe import Facts
from pki.names import printable


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


def show_facts(facts: Facts, stream: TextIO | None, *, as_json: bool) -> None:
    """Print facts for a person, or as one JSON object (in ASCII, so escaped as well)."""
    if as_json:
        for line in json.dumps(facts, indent=2).splitlines():
            say(line, stream)
        return
    for key, value in facts.items():
        say(f"{key.replace('_', ' ')}: {_text(value)}", stream)


def _text(value: str | int | list[str]) -> str:
    match value:
        case list():
            return ", ".join(value) or "none"
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value) or "none"
