"""A daemon's metrics, asked for as a collector does."""

from __future__ import annotations

from collections.abc import Mapping

import trio
from prometheus_client.parser import text_string_to_metric_families

from tests.support.patience import patient

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def http(address: str, request: bytes) -> tuple[bytes, bytes]:
    """Send bytes; head and body of what is answered."""
    host, _, port = address.rpartition(":")
    with trio.fail_after(patient(20)):
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(request)
            answer = b"".join([bytes(data) async for data in stream])
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


async def scrape(address: str) -> Samples:
    """All values as they are now."""
    head, body = await http(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    return parse(body.decode())


def parse(text: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, labels: Mapping[str, str] | None = None) -> float:
    """That of one sample; the labels that are named have to be as given."""
    wanted = set((labels or {}).items())
    matching = [each for (found, has), each in samples.items() if found == name and wanted <= has]
    assert matching, (name, labels)
    return sum(matching)
