"""jobd's own client, on trio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import trio

from api import methods
from api.client import JobClient
from api.malloc import keep_what_is_freed
from api.messages import HealthCheckRequest, HealthCheckResponseServingStatus, JobState
from tests.benchmarks.correct import check
from tests.benchmarks.measurements import Peer

T = TypeVar("T")


class JobClientPeer:
    """A :class:`Peer`."""

    def __init__(self, client: JobClient) -> None:
        self._client = client

    async def run(self, argv: Sequence[str]) -> None:
        await self.job(argv)

    async def job(self, argv: Sequence[str]) -> str:
        started = await self.start(argv)
        (job,) = await self._client.wait(started)
        check(job.state == JobState.SUCCEEDED and job.exit_code == 0, f"a job ended as {job}")
        return started

    async def query(self, job_id: str) -> None:
        job = await self._client.query(job_id)
        check(job.id == job_id, f"asked for {job_id}, got {job}")

    async def check(self) -> None:
        channel = await self._client.channel()
        answer = await channel.unary(methods.CHECK, HealthCheckRequest())
        check(answer.status == HealthCheckResponseServingStatus.SERVING, f"not serving: {answer}")

    async def start(self, argv: Sequence[str]) -> str:
        return (await self._client.start(argv)).id

    async def stream(self, job_id: str, on_data: Callable[[bytes], None]) -> None:
        end = 0
        async with self._client.stream(job_id) as output:
            while piece := await output.receive():
                check(piece.offset == end, f"a gap at {end}")
                end = piece.end
                for part in piece.data:  # as they came: nobody wants them put together
                    on_data(part)
        verdict = output.verdict
        check(verdict is not None and verdict.exit_code == 0 and verdict.end_offset == end, f"{end=}: {verdict}")

    async def side_by_side(self, functions: Sequence[Callable[[], Awaitable[None]]]) -> None:
        async with trio.open_nursery() as nursery:
            for function in functions:
                nursery.start_soon(function)


def run(work: Callable[[Peer], Awaitable[T]], stubs: Path, server: str, cert: Path, key: Path, ca: Path) -> T:
    """Connect (without second tries: a lost connection is a run that was not correct) and do the work. Memory that was
    freed is used again, as in jobcli."""
    keep_what_is_freed()

    async def main() -> T:
        async with JobClient.connect(server, cert=cert, key=key, ca=ca, retry_for=0) as client:
            return await work(JobClientPeer(client))

    return trio.run(main)
