"""What an attack may be answered, and where the operator sees that there was one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.support.metrics import Samples, value


@dataclass(frozen=True)
class Count:
    """A metric, or those of its series that have these labels, together."""

    metric: str
    labels: frozenset[tuple[str, str]] = frozenset()

    def of(self, samples: Samples) -> float:
        """What it is; 0 before it was counted at all."""
        try:
            return value(samples, self.metric, dict(self.labels))
        except AssertionError:
            return 0.0

    def __str__(self) -> str:
        return f"{self.metric}{''.join(f' {value}' for _, value in sorted(self.labels))}"


def counted(metric: str, **labels: str) -> Count:
    """A metric of jobd."""
    return Count(f"jobd_{metric}", frozenset(labels.items()))


HANDSHAKES: Final = counted("handshakes_failed_total")
CONNECTIONS: Final = counted("connections_total")
STATISTICS: Final = {
    "offences": counted("stream_offences_total"),
    "broke_protocol": counted("connections_cut_total", cause="protocol"),
    "sent_away": counted("connections_cut_total", cause="flood"),
}
"""The metrics of what ``Statistics`` has."""


@dataclass(frozen=True)
class Expected:
    """What an attack may be answered.

    Attributes:
        least: answers that there have to be, and how many of each at the least.
        others: those that there may be as well.
        either: how many there have to be of all together, at the least.
        counted: by the answer, the metric that grows by one at least for each of them.
    """

    least: Mapping[str, int]
    others: frozenset[str] = frozenset()
    either: int = 1
    counted: Mapping[str, Count] = field(default_factory=dict)

    def wrong(self, answers: Counter[str]) -> list[str]:
        """What is not as it should be: all answers are looked at, whatever their order and number."""
        found = [
            f"{answers[answer]} answers are {answer}, and not {least} at the least"
            for answer, least in self.least.items()
            if answers[answer] < least
        ]
        if answers.total() < self.either:
            found.append(f"{answers.total()} answers, and not {self.either} at the least")
        strange = answers.keys() - self.least.keys() - self.others
        return found + [f"{answers[answer]} answers are {answer}" for answer in sorted(strange)]

    def uncounted(self, answers: Counter[str], before: Samples, after: Samples) -> list[str]:
        """What the metrics do not have of it."""
        wanted: Counter[Count] = Counter()
        for answer, count in self.counted.items():
            wanted[count] += answers[answer]
        return [
            f"{count} grew by {count.of(after) - count.of(before):.0f}, and not by {least} at the least"
            for count, least in wanted.items()
            if count.of(after) - count.of(before) < least
        ]


def told(answers: Counter[str]) -> str:
    """The answers, those that came first foremost."""
    return ", ".join(f"{answer} ({count})" for answer, count in answers.items())
