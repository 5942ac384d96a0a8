"""Counts calls: by method and status, and how long they took."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from api.errors import Code
from api.methods import METHODS
from api.rpc.server import ServerCall
from jobd.metrics.durations import Histogram

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)
"""Seconds: a health check takes less than one millisecond, a stream as long as its job."""
ALWAYS: Final = frozenset({Code.OK, Code.INTERNAL})
"""What is looked for is there from the start: a rate needs a zero to begin from."""
UNKNOWN: Final = ("", "unknown")
"""Service and method of what is asked for and is not in the table: whoever calls may not make up labels."""


class Calls:
    """An observer (:mod:`jobd.middleware.outcomes`) of all calls."""

    def __init__(self) -> None:
        self._by_path = {method.path: _OfMethod((method.service, method.name)) for method in METHODS}
        self._others = _OfMethod(UNKNOWN)

    def observe(self, call: ServerCall, status: Code, reason: str, seconds: float) -> None:
        """A call has ended."""
        found = self._by_path.get(call.path, self._others)
        found.codes[status] += 1
        found.durations.observe(seconds)

    def codes(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Service, method and status; and how many."""
        for each in (*self._by_path.values(), self._others):
            for code, count in zip(Code, each.codes, strict=True):
                if count or code in ALWAYS:
                    yield (*each.labels, code.name), count

    def durations(self) -> Iterator[tuple[tuple[str, ...], Histogram]]:
        """Service and method; and how long those took that have ended."""
        for each in (*self._by_path.values(), self._others):
            yield each.labels, each.durations


class _OfMethod:
    def __init__(self, labels: tuple[str, str]) -> None:
        self.labels = labels
        self.codes = [0] * len(Code)
        self.durations = Histogram(BOUNDS)
