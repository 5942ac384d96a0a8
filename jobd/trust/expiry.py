"""Until when the files are good, and when to say that this ends soon."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger(__name__)

EARLY: Final = timedelta(days=14)
"""How long before its end something is told of, unless a third of its time is less."""
AGAIN: Final = timedelta(days=1)
"""How often."""


@dataclass(frozen=True, slots=True)
class Term:
    """The time for which one thing in a file is good.

    Attributes:
        kind: certificate, ca or crl.
        what: the thing, with its name.
    """

    kind: str
    what: str
    path: Path
    begins: datetime
    ends: datetime

    @property
    def ends_soon(self) -> datetime:
        """From when on it is told of."""
        return self.ends - min(EARLY, (self.ends - self.begins) / 3)


def tell(terms: Iterable[Term], now: datetime) -> datetime:
    """Put into the log what ends soon or has ended; returns when to do so again."""
    next_time = now + AGAIN
    for term in terms:
        facts = {"what": term.what, "file": str(term.path), "until": f"{term.ends:%Y-%m-%dT%H:%M:%SZ}"}
        if term.ends <= now:
            log.error("something has expired; a new one is needed", **facts)
        elif term.ends_soon <= now:
            left = (term.ends - now) // timedelta(hours=1)
            log.warning("something expires soon; a new one is needed", **facts, hours_left=left)
        moments = [moment for moment in (term.ends_soon, term.ends) if moment > now]
        next_time = min([next_time, *moments])
    return next_time
