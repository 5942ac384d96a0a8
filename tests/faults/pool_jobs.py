"""Jobs whose outputs and ends are known before, and that leave marks outside: for :mod:`tests.faults.pool_chaos`."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SCRIPT: Final = """
marks=$1 request=$2 output=$3 pause=$4 end=$5
mark() { printf '%s %s %s %s\\n' "$(date +%s.%N)" $request "$1" $PPID >> "$marks"; }
mark began
seq 1 $output
sleep $pause
seq 1 $output
mark "$end"
case $end in signal_9) kill -9 $$;; *) exit ${end#exit_};; esac
"""


@dataclass(frozen=True)
class Plan:
    """A job, and what is to become of it.

    Attributes:
        lines: numbers that it writes, twice.
        pause: seconds between.
        end: how it ends, as its mark says it.
        stopped: it would go on for longer, and a client stops it after so many seconds.
    """

    request: str
    lines: int
    pause: float
    end: str
    stopped: float | None

    @classmethod
    def of(cls, rng: random.Random, request: str) -> Plan:
        """Some job."""
        stopped = rng.uniform(0, 3) if rng.random() < 0.1 else None
        return cls(
            request,
            rng.choice((0, 3, 500, 20_000)),
            1000 if stopped is not None else rng.choice((0, 0.1, rng.uniform(0, 6))),
            "signal_9" if rng.random() < 0.1 else f"exit_{rng.choice((0, 0, rng.randrange(120)))}",
            stopped,
        )

    @property
    def digest(self) -> str:
        """Of all that it writes."""
        part = "".join(f"{number}\n" for number in range(1, self.lines + 1))
        return hashlib.sha256((part + part).encode()).hexdigest()

    def argv(self, marks: Path) -> list[str]:
        """Its command."""
        return ["sh", "-c", SCRIPT, "job", str(marks), self.request, str(self.lines), str(self.pause), self.end]
