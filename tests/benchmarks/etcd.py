"""Transactions with etcd: our client next to grpc.aio, and its messages by hand next to betterproto's classes.

One member over TLS, its data in memory where that can be had: it is the client that is measured. grpc.aio sends and
gets the same bytes, made and read by the same code. Within a round each has its turn, in another order each time.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import grpc
import trio

from api import protobuf
from jobd.pools.etcd import answers, requests
from jobd.pools.etcd.client import open_client
from jobd.pools.etcd.endpoints import Limits
from jobd.pools.etcd.transaction import Get, Outcome, Put, Txn, absent
from tests.benchmarks.correct import check
from tests.support import etcd_messages as m
from tests.support.etcd import Cluster, cluster

IN_FLIGHT: Final = (1, 32)
Figures = tuple[float, float]
"""Transactions a second, and seconds of the client's processor time for one."""

VALUE: Final = b"v" * 200
PATIENCE: Final = 30.0
"""Seconds of a call: on a busy machine it is measured all the same."""
_NUMBERS: Final = itertools.count()


def run(*, quick: bool, rounds: int | None) -> None:
    """Measure, and print the tables.

    Raises:
        IncorrectRunError: a transaction did not do what it says.
    """
    rounds = rounds or (1 if quick else 5)
    count = 100 if quick else 1000
    found: dict[tuple[str, int], list[Figures]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="jobd-etcd-bench-") as name, cluster(Path(name)) as etcd:
        for number in range(rounds):
            names = list(CONTENDERS)
            for contender in names[number % len(names) :] + names[: number % len(names)]:
                for in_flight in IN_FLIGHT:
                    calls = count if in_flight > 1 else count // 2
                    found[contender, in_flight].append(CONTENDERS[contender](etcd, calls, in_flight))
    print(f"\ntransactions with etcd, medians of {rounds} (min to max), and the ratio to grpc.aio")
    for in_flight in IN_FLIGHT:
        for column, (title, unit) in enumerate((("a second", 1), ("client's processor time, µs", 1e6))):
            reference = statistics.median(figures[column] for figures in found["grpc.aio", in_flight])
            for contender in CONTENDERS:
                values = [figures[column] for figures in found[contender, in_flight]]
                median = statistics.median(values)
                spread = f"({min(values) * unit:.0f} to {max(values) * unit:.0f})"
                what = f"{title}, {in_flight} in flight: {contender}"
                print(f"{what:56} | {median * unit:6.0f} {spread:16} | {median / reference:.2f}")
    print_codecs(20 if quick else 500)


class Stopwatch:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._begun = time.perf_counter(), time.process_time()

    def per(self, count: int) -> Figures:
        """How many of these a second, and the processor's time for one."""
        return count / (time.perf_counter() - self._begun[0]), (time.process_time() - self._begun[1]) / count


def submission() -> Txn:
    """About what a submission is: four keys, guarded by one's absence."""
    key = b"bench/%d" % next(_NUMBERS)
    puts = tuple(Put(key + suffix, VALUE) for suffix in (b"", b"/spec", b"/j", b"/q"))
    return Txn((absent(key),), puts, (Get(key),))


async def _in_flight(count: int, call: Callable[[Txn], Awaitable[Outcome]]) -> None:
    """One of the tasks that are at it at the same time: so many calls."""
    for _ in range(count):
        check((await call(submission())).held, "a transaction was not done")


def ours(etcd: Cluster, count: int, width: int) -> Figures:
    """With our client."""

    async def main() -> Figures:
        async with open_client(replace(etcd.etcd, limits=Limits(PATIENCE, PATIENCE))) as client:
            await client.status()  # connected
            begun = Stopwatch()
            async with trio.open_nursery() as nursery:
                for _ in range(width):
                    nursery.start_soon(_in_flight, count // width, client.txn)
            return begun.per(count // width * width)

    return trio.run(main)


def grpc_aio(etcd: Cluster, count: int, width: int) -> Figures:
    """With grpc.aio."""

    async def main() -> Figures:
        files = [(etcd.directory / name).read_bytes() for name in ("ca.crt", "machine.key", "machine.crt")]
        credentials = grpc.ssl_channel_credentials(*files)
        async with grpc.aio.secure_channel(str(etcd.members[0].endpoint), credentials) as channel:
            txn = channel.unary_unary(
                "/etcdserverpb.KV/Txn", request_serializer=requests.txn, response_deserializer=answers.outcome
            )
            await channel.channel_ready()
            begun = Stopwatch()
            await asyncio.gather(*(_in_flight(count // width, partial(txn, timeout=PATIENCE)) for _ in range(width)))
            return begun.per(count // width * width)

    return asyncio.run(main())


CONTENDERS: Final = {"our client": ours, "grpc.aio": grpc_aio}


def print_codecs(times: int) -> None:
    """What a submission's request and answer cost in each way."""
    asked = submission()
    header = m.ResponseHeader(cluster_id=2**63, member_id=2**63, revision=123456, raft_term=3)
    put = m.ResponseOp(response_put=m.PutResponse(header=m.ResponseHeader(revision=123456)))
    answer = bytes(m.TxnResponse(header=header, succeeded=True, responses=[put] * 4))
    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "by hand": (lambda: requests.txn(asked), lambda: answers.outcome(answer)),
        "api.protobuf": (lambda: protobuf.encode(_message(asked)), lambda: protobuf.decode(m.TxnResponse, answer)),
        "betterproto": (lambda: bytes(_message(asked)), lambda: m.TxnResponse().parse(answer)),
    }
    print("\nprocessor time of a submission's messages, µs, best of 5: request, answer")
    for name, (write, read) in ways.items():
        print(f"{name:12} | {_microseconds(write, times):8.1f} | {_microseconds(read, times):8.1f}")


def _message(asked: Txn) -> m.TxnRequest:
    return m.TxnRequest(
        compare=[m.Compare(target=1, key=each.key, create_revision=each.revision) for each in asked.when],
        success=[
            m.RequestOp(request_put=m.PutRequest(key=step.key, value=step.value))
            for step in asked.then
            if isinstance(step, Put)
        ],
        failure=[m.RequestOp(request_range=m.RangeRequest(key=step.key)) for step in asked.otherwise],
    )


def _microseconds(what: Callable[[], object], times: int) -> float:
    best = float("inf")
    for _ in range(5):
        begun = time.process_time()
        for _ in range(times):
            what()
        best = min(best, (time.process_time() - begun) / times)
    return best * 1e6
