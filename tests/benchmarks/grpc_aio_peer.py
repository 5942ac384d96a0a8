"""A grpc.aio client with the stubs that grpcio-tools made."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.benchmarks.correct import check
from tests.benchmarks.measurements import Peer

T = TypeVar("T")


class GrpcAioPeer:
    """A :class:`Peer`."""

    def __init__(self, stub: Any, messages: Any, health: Any) -> None:
        self._stub = stub
        self._health = health
        self._messages = messages

    async def run(self, argv: Sequence[str]) -> None:
        await self.job(argv)

    async def job(self, argv: Sequence[str]) -> str:
        started = await self.start(argv)
        answer = await self._stub.Wait(self._messages.WaitRequest(job_ids=[started]))
        (job,) = answer.jobs
        check(job.state == self._messages.JOB_STATE_SUCCEEDED and job.exit_code == 0, f"a job ended as {job}")
        return started

    async def query(self, job_id: str) -> None:
        job = (await self._stub.Query(self._messages.QueryRequest(job_id=job_id))).job
        check(job.id == job_id, f"asked for {job_id}, got {job}")

    async def start(self, argv: Sequence[str]) -> str:
        spec = self._messages.JobSpec(argv=argv)
        return str((await self._stub.Start(self._messages.StartRequest(spec=spec))).job.id)

    async def check(self) -> None:
        answer = await self._health.Check(health_pb2.HealthCheckRequest())
        check(answer.status == health_pb2.HealthCheckResponse.SERVING, f"not serving: {answer}")

    async def stream(self, job_id: str, on_data: Callable[[bytes], None]) -> None:
        request = self._messages.StreamRequest(job_id=job_id)
        end = 0
        verdict = None
        async for answer in self._stub.Stream(request):
            if answer.WhichOneof("event") == "verdict":
                verdict = answer.verdict
                continue
            check(answer.output.offset == end, f"a gap at {end}")
            data = answer.output.data
            end += len(data)
            on_data(data)
        check(verdict is not None and verdict.exit_code == 0 and verdict.end_offset == end, f"{end=}: {verdict}")

    async def side_by_side(self, functions: Sequence[Callable[[], Awaitable[None]]]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for function in functions:
                tasks.create_task(_coroutine(function))


async def _coroutine(function: Callable[[], Awaitable[None]]) -> None:
    await function()


def run(work: Callable[[Peer], Awaitable[T]], stubs: Path, server: str, cert: Path, key: Path, ca: Path) -> T:
    """Connect and do the work."""
    sys.path.insert(0, str(stubs))
    from jobworker.v1 import job_worker_pb2, job_worker_pb2_grpc

    async def main() -> T:
        credentials = grpc.ssl_channel_credentials(ca.read_bytes(), key.read_bytes(), cert.read_bytes())
        options = [("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0)]
        async with grpc.aio.secure_channel(server, credentials, options=options) as channel:
            stub = job_worker_pb2_grpc.JobWorkerServiceStub(channel)
            return await work(GrpcAioPeer(stub, job_worker_pb2, health_pb2_grpc.HealthStub(channel)))

    return asyncio.run(main())
