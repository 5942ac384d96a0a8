"""What came of an attack, and whether that is as it should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.hostile.expected import Count, Expected, told
from tests.hostile.neighbour import Latencies
from tests.support.metrics import Samples
from tests.support.patience import patient

GROWTH: Final = 48 * 1024
"""KiB that a server may have more afterwards: what its allocator keeps."""
CEILING: Final = patient(1000)
"""Milliseconds of the neighbour's p99: far more than any attack costs it, and nothing that one would call service."""
HEAD: Final = (
    "attack",
    "answer",
    "counted",
    "p50 without",
    "beside, ms",
    "p99 without",
    "beside, ms",
    "memory before",
    "at most",
    "after, MiB",
)
SHOWN: Final = 70
"""Characters of a cell."""


@dataclass(frozen=True)
class Row:
    """One of the table.

    Attributes:
        quiet: the neighbour's latencies without the attack.
        beside: those beside it.
        memory: KiB before, at most, and after.
        counts: the metrics before, and after.
    """

    name: str
    expected: Expected
    answers: Counter[str]
    quiet: Latencies
    beside: Latencies
    memory: Sequence[int]
    counts: tuple[Samples, Samples]

    def cells(self) -> list[str]:
        """As they are shown."""
        times = (self.quiet.p50, self.beside.p50, self.quiet.p99, self.beside.p99)
        memory = [f"{kib / 1024:.1f}" for kib in self.memory]
        texts = [_short(told(self.answers)), _short(", ".join(map(self._grown, self._counters())))]
        return [self.name, *texts, *(f"{each:.1f}" for each in times), *memory]

    def _counters(self) -> list[Count]:
        return list(dict.fromkeys(count for answer, count in self.expected.counted.items() if self.answers[answer]))

    def _grown(self, count: Count) -> str:
        before, after = self.counts
        return f"{count} +{count.of(after) - count.of(before):.0f}"

    def wrong(self) -> list[str]:
        """What is not as it should be."""
        found = [*self.expected.wrong(self.answers), *self.expected.uncounted(self.answers, *self.counts)]
        if self.beside.failed or self.quiet.failed:
            found.append(f"{self.beside.failed + self.quiet.failed} calls of the neighbour failed")
        if not self.beside.calls or not self.quiet.calls:
            found.append("the neighbour was not served")
        if self.beside.p99 > CEILING:
            found.append(f"the neighbour waited {self.beside.p99:.0f} ms, and {CEILING:.0f} are too many")
        if self.memory[-1] - self.memory[0] > GROWTH:
            found.append("memory was not given back")
        return found


def _short(text: str) -> str:
    return text if len(text) < SHOWN else f"{text[: SHOWN - 1]}…"
