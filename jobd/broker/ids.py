"""Job ids: UUIDs in their canonical form, or a prefix that only one job has."""

from __future__ import annotations

import re
from typing import Final

from jobd.worker.errors import InvalidIdError

SHORTEST_PREFIX: Final = 4
FULL: Final = 36
_TEMPLATE: Final = "00000000-0000-0000-0000-000000000000"
_HEX: Final = re.compile(r"[0-9a-f]*\Z")
_WHOLE: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


def canonical(text: str) -> str:
    """The id, or prefix of one, in the form in which it is stored (lower case, with its dashes).

    Raises:
        InvalidIdError: no UUID begins like this, or it is shorter than the shortest prefix.
    """
    if _WHOLE.match(text):  # as we say it ourselves
        return text
    wanted = text.lower()
    if "-" not in wanted:  # the dashes may be left out
        pieces = (wanted[:8], wanted[8:12], wanted[12:16], wanted[16:20], wanted[20:])
        wanted = "-".join(piece for piece in pieces if piece)
    fits = all(
        (char == "-") == (place == "-") and (char == "-" or _HEX.match(char))
        for char, place in zip(wanted, _TEMPLATE, strict=False)
    )
    if not fits or not SHORTEST_PREFIX <= len(wanted) <= FULL:
        raise InvalidIdError(text)
    return wanted
