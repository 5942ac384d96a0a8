"""Prometheus' text format (0.0.4) of all metrics as they are now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import trio
from prometheus_client import Metric as Family
from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from jobd.metrics.catalogue import METRICS, Metric, Sources

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
FRESH: Final = 1.0
"""Seconds for which what was made is given to whoever asks next: asking all the time costs the server little."""


class Exposition:
    """The text, made when it is asked for."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._process = ProcessCollector(registry=None)
        self._making = trio.Lock()
        self._text = b""
        self._stale_at = 0.0

    async def text(self) -> bytes:
        """As of now, or of a second ago at most."""
        async with self._making:
            if trio.current_time() >= self._stale_at:
                # Read in one go, so that the numbers fit together; what is long about it needs nobody else.
                families = [family(metric, self._sources) for metric in METRICS]
                self._text = await trio.to_thread.run_sync(self._format, families)
                self._stale_at = trio.current_time() + FRESH
            return self._text

    def _format(self, families: Sequence[Family]) -> bytes:
        return generate_latest(_Collected([*families, *self._process.collect()]))


class _Collected(Collector):
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


def family(metric: Metric, sources: Sources) -> Family:
    """A metric with its values, as the library has them."""
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, values in metric.read(sources):
            histogram.add_metric(labels, values.buckets(), values.sum)
        return histogram
    plain = (CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily)(
        metric.name, metric.help, labels=metric.labels
    )
    for labels, value in metric.read(sources):
        plain.add_metric(labels, float(value))
    return plain
