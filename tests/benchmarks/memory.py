"""What jobd holds: idle, after much output, with readers that never read, with many jobs, after many jobs."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from api import methods
from api.client import JobClient
from api.messages import StreamRequest
from api.protobuf import encode
from tests.benchmarks.correct import check
from tests.benchmarks.measurements import TRUE
from tests.benchmarks.payload import MIB, digest, make, written_by
from tests.benchmarks.servers import Serving, jobd
from tests.support.pki import TestPki
from tests.support.wire import CALL, RawClient

SECONDS: Final = 7200.0
QUIET: Final = ("/bin/sleep", "100000")
LARGEST_WINDOW: Final = 2**31 - 1
INITIAL_WINDOW: Final = 4
"""The setting (RFC 9113, 6.5.2)."""
AT_ONCE: Final = 32
PATIENCE: Final = 60.0
METRICS: Final = "jobd.prom"
"""The file, beside its state, in which a daemon tells how it is."""
UNSENT: Final = 'jobd_held_bytes{what="unsent"}'
QUIET_FOR: Final = 2.5
"""Seconds, in which that file is written twice."""


@dataclass(frozen=True)
class Plan:
    """How much of everything a run does."""

    output: int = 10 * 1024
    output_of_each: int = 512
    followers: int = 1000
    running: int = 1000
    ended: int = 100_000


QUICK: Final = Plan(output=64, output_of_each=32, followers=20, running=20, ended=50)


@dataclass(frozen=True)
class Row:
    """A figure, with the most that it should be; both in MiB."""

    label: str
    found: float
    goal: float

    def __str__(self) -> str:
        met = "met" if self.found <= self.goal else "NOT met"
        return f"| {self.label} | {self.found:.1f} | ≤ {self.goal:g}: {met} |"


def run(*, quick: bool, rounds: int | None) -> None:
    """Measure, each with a daemon of its own, and print the table.

    Raises:
        IncorrectRunError: a run was not correct.
    """
    plan = QUICK if quick else Plan()
    print(f"\n{plan}\n\n| all processes of jobd together (PSS), MiB | found | goal |\n|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="jobd-bench-") as name:
        scratch = Path(name)
        pki = TestPki.make(scratch / "pki")
        for number, measure in enumerate((_output, _connections, _streams, _running, _ended)):
            own = scratch / str(number)
            own.mkdir()
            metrics = ("--metrics-file", str(own / METRICS), "--metrics-interval", "1")
            with jobd(
                pki, scratch, own, "--slots", "5000", "--grace", "0", "--connections", "5000", *metrics
            ) as server:
                print(trio.run(_measured, partial(measure, pki, server, plan, own)), flush=True)


async def _measured(measure: Callable[[], Awaitable[list[Row]]]) -> str:
    with trio.fail_after(SECONDS):
        return "\n".join(map(str, await measure()))


async def _output(pki: TestPki, server: Serving, plan: Plan, own: Path) -> list[Row]:
    """Much output, followed to its end, job after job."""
    payload = make(own / "payload", plan.output_of_each)
    expected = digest(payload, plan.output_of_each * MIB)
    async with _client(pki, server) as client:
        await _follow(client, payload, MIB, digest(payload, MIB))
        idle = server.memory()
        for _ in range(plan.output // plan.output_of_each):
            await _follow(client, payload, plan.output_of_each * MIB, expected)
        return [Row("idle", idle, 60), Row(f"after {plan.output} MiB of output, more", server.memory() - idle, 10)]


async def _follow(client: JobClient, payload: Path, size: int, expected: bytes) -> None:
    job = await client.start(written_by(payload, size))
    received, found = 0, hashlib.sha256()
    async with client.stream(job.id) as output:
        async for piece in output:
            received += len(piece.data)
            found.update(piece.data)
    check(received == size, f"{received} bytes came of {size}")
    check(found.digest() == expected, "the bytes that came have another hash")
    await client.delete(job.id)


async def _connections(pki: TestPki, server: Serving, plan: Plan, own: Path) -> list[Row]:
    """Each with one stream, the largest windows there are, and nobody who reads."""
    async with _client(pki, server) as client:
        job = await _written(client)
        before = server.memory()
        with ExitStack() as sockets:
            for _ in range(plan.followers):
                sock = await trio.to_thread.run_sync(_connected, pki, server)
                sockets.callback(sock.close)
                sock.sendall(_opening() + _call(job, 1))
            await _all_there(own, plan.followers)
            await _sent(own)
            held = await _settled(server) - before
        return [Row(f"{plan.followers} stalled followers, a connection each, more", held, plan.followers * 0.4)]


async def _streams(pki: TestPki, server: Serving, plan: Plan, own: Path) -> list[Row]:
    """All of them on one. Its windows are opened when all are there: of who does not read, no more is read."""
    async with _client(pki, server) as client:
        job = await _written(client)
        before = server.memory()
        sock = await trio.to_thread.run_sync(_connected, pki, server)
        with sock:
            calls = b"".join(_call(job, 2 * number + 1) for number in range(plan.followers))
            await trio.to_thread.run_sync(sock.sendall, _opening(0) + calls)
            await _all_there(own, plan.followers)
            sock.sendall(RawClient().settings({INITIAL_WINDOW: LARGEST_WINDOW}))
            await _sent(own)
            held = await _settled(server) - before
            check(_metric(own, "jobd_open_streams") == plan.followers, "some of the followers have gone")
        return [Row(f"{plan.followers} stalled followers on one connection, more", held, plan.followers * 0.04)]


async def _running(pki: TestPki, server: Serving, plan: Plan, own: Path) -> list[Row]:
    """Jobs that do nothing."""
    async with _client(pki, server) as client:
        await client.start(QUIET)
        before = server.memory()
        limit = trio.CapacityLimiter(AT_ONCE)

        async def start() -> None:
            async with limit:
                await client.start(QUIET)

        async with trio.open_nursery() as nursery:
            for _ in range(plan.running):
                nursery.start_soon(start)
        held = server.memory() - before
        return [Row(f"{plan.running} quiet jobs, more", held, plan.running * 150 / 1024)]


async def _ended(pki: TestPki, server: Serving, plan: Plan, own: Path) -> list[Row]:
    """Jobs that have come and gone."""
    async with _client(pki, server) as client:

        async def some(count: int) -> None:
            for _ in range(count):
                [job] = await client.wait((await client.start(TRUE)).id)
                check(job.exit_code == 0, f"a job ended as {job}")

        await some(10)
        before = server.memory()
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(some, plan.ended // AT_ONCE)
        return [Row(f"after {plan.ended} jobs that ended, more", server.memory() - before, 20)]


# ---- the peers


def _client(pki: TestPki, server: Serving):  # type: ignore[no-untyped-def] # the context manager of JobClient.connect
    return JobClient.connect(server.address, **pki.credentials("alice"))


async def _written(client: JobClient) -> str:
    """A job that has written more than any buffer takes, and ended."""
    job = await client.start(["head", "-c", str(64 * MIB), "/dev/zero"])
    await client.wait(job.id)
    return job.id


def _connected(pki: TestPki, server: Serving) -> ssl.SSLSocket:
    host, port = server.address.rsplit(":", 1)
    plain = socket.create_connection((host, int(port)))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return pki.context("alice").wrap_socket(plain, server_hostname=host)


def _opening(window: int = LARGEST_WINDOW) -> bytes:
    raw = RawClient()
    return raw.begin({INITIAL_WINDOW: window}) + raw.window(0, LARGEST_WINDOW - 65_535)


def _call(job_id: str, stream_id: int) -> bytes:
    headers = tuple((name, methods.STREAM.path if name == ":path" else value) for name, value in CALL)
    raw = RawClient()
    raw.encoder.header_table_size = 0  # each block says all: one table for the connection is not kept here
    return raw.headers(stream_id, headers) + raw.message(stream_id, encode(StreamRequest(job_id=job_id)))


async def _all_there(own: Path, count: int) -> None:
    """What was refused, or has ended, would hold nothing: all of them are open."""
    with trio.move_on_after(PATIENCE):
        while _metric(own, "jobd_open_streams") < count:
            await trio.sleep(0.1)
    there = _metric(own, "jobd_open_streams")
    check(there == count, f"{there} followers are there, and not {count}")


async def _sent(own: Path) -> None:
    """What can be sent has been sent, and some of it is not taken."""
    before = 0
    with trio.fail_after(PATIENCE):
        while (sent := _metric(own, "jobd_sent_bytes_total")) != before or not _metric(own, UNSENT):
            before = sent
            await trio.sleep(QUIET_FOR)


def _metric(own: Path, name: str) -> int:
    found = re.search(rf"^{re.escape(name)} (\S+)", (own / METRICS).read_text(), re.MULTILINE)
    return int(float(found[1])) if found else 0


async def _settled(server: Serving) -> float:
    """What is held when nothing moves any more."""
    last = -1.0
    while last != (last := server.memory()):
        await trio.sleep(0.5)
    return last
