"""The form of the audit log: one JSON object a line, each with its number and the SHA-256 of the line before.

Whoever changes, takes out or puts in a line breaks the chain at the next one. Whoever can write the file can also make
all of the rest anew: a line's sum that is kept elsewhere is what proves the most. A line that a kill has cut stays as
it is; the one after it says so, and vouches for the piece and, since that has no sum any more, for the line before it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

FIRST: Final = "0" * 64
"""The sum before the first line."""
MAX_LINE: Final = 64 * 1024
"""Bytes."""
MAX_TEXT: Final = 2048
"""Characters of each thing that is said in a line; a certificate's names can be longer."""
OPENED: Final = "opened"
LOST: Final = "lost"


@dataclass(frozen=True, slots=True)
class Head:
    """How far a chain is.

    Attributes:
        number: of the last line; 0 before the first.
        sum: the SHA-256 of it, without its newline.
    """

    number: int = 0
    sum: str = FIRST

    def follow(self, time: str, facts: Mapping[str, Any]) -> tuple[bytes, Head]:
        """The next line, without its newline, and how far the chain is then."""
        number = self.number + 1
        short = {name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in facts.items()}
        line = json.dumps({"seq": number, "time": time, **short, "prev": self.sum}, separators=(",", ":")).encode()
        return line, Head(number, sum_of(line))

    def after_piece(self, piece: bytes) -> Head:
        """How far it is after a line that was cut: the next one vouches for the piece, and for what is before that."""
        return Head(self.number + 1, sum_of(self.sum.encode() + b"\n" + piece))


def sum_of(line: bytes) -> str:
    """What the next line says of this one."""
    return hashlib.sha256(line).hexdigest()


def read(line: bytes) -> dict[str, Any] | None:
    """What a line says; None if it is none (or a piece of one)."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):  # the latter: somebody's, of nothing but brackets
        return None
    if not isinstance(found, dict) or type(found.get("seq")) is not int or not isinstance(found.get("prev"), str):
        return None
    return found
