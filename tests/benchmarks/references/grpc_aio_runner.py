"""The reference: the main job as one would write it with grpc.aio and its documentation, and nothing of ours.

Start, Wait and Stream of the same contract, over mutual TLS. Output is read from pipes with asyncio and kept in memory,
so that a late follower gets all of it from the first byte. It keeps nothing on disk, knows no roles, writes no audit
log and queues nothing: what it does not do, it need not spend time on.

``python -m tests.benchmarks.references.grpc_aio_runner STUBS CERT KEY CA``
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
import uuid
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc

sys.path.insert(0, sys.argv[1])

from jobworker.v1 import job_worker_pb2 as pb  # made at run time
from jobworker.v1 import job_worker_pb2_grpc as pb_grpc

READ_SIZE = 256 * 1024
MUCH = 1024 * 1024


class Job:
    """A process, and all that it wrote."""

    def __init__(self, spec: Any, process: Process) -> None:
        self.message = pb.Job(id=str(uuid.uuid4()), spec=spec, state=pb.JOB_STATE_RUNNING, pid=process.pid)
        self.message.created_at.GetCurrentTime()
        self.ended = asyncio.Event()
        self._process = process
        self._pieces: list[Any] = []
        self._offset = 0
        self._changed = asyncio.Event()
        self.task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        out, err = self._process.stdout, self._process.stderr
        assert out is not None
        assert err is not None
        await asyncio.gather(self._read(out, pb.OUTPUT_SOURCE_STDOUT), self._read(err, pb.OUTPUT_SOURCE_STDERR))
        code = await self._process.wait()
        self.message.state = pb.JOB_STATE_FAILED if code else pb.JOB_STATE_SUCCEEDED
        if code < 0:
            self.message.signal = -code
        else:
            self.message.exit_code = code
        self.message.output_bytes = self._offset
        self.ended.set()
        self._changed.set()

    async def _read(self, pipe: asyncio.StreamReader, source: int) -> None:
        while data := await pipe.read(READ_SIZE):
            output = pb.Output(data=data, offset=self._offset, source=source)
            output.time.FromNanoseconds(time.time_ns())
            self._offset += len(data)
            self._pieces.append(pb.StreamResponse(output=output))
            self._changed.set()
            self._changed = asyncio.Event()

    def make_room(self) -> None:
        """Forget what it wrote, if it has ended and that was much: each measurement is to find the memory that the one
        before it had, as where output is deleted (``Place.clear``)."""
        if self.ended.is_set() and self._offset > MUCH:
            self._pieces.clear()

    async def follow(self) -> AsyncIterator[Any]:
        """Everything from the first byte, live until the end."""
        index = 0
        while True:
            while index < len(self._pieces):
                yield self._pieces[index]
                index += 1
            if self.ended.is_set():
                return
            await self._changed.wait()


class Runner(pb_grpc.JobWorkerServiceServicer):  # type: ignore[misc] # generated, without types
    """The service."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    async def Start(self, request: Any, context: grpc.aio.ServicerContext) -> Any:  # noqa: N802 # the contract's name
        for job in self._jobs.values():
            job.make_room()
        process = await asyncio.create_subprocess_exec(
            *request.spec.argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            limit=READ_SIZE,
            pipesize=READ_SIZE,  # as large as jobd's
            cwd=request.spec.cwd or "/",
            start_new_session=True,
        )
        job = Job(request.spec, process)
        self._jobs[job.message.id] = job
        return pb.StartResponse(job=job.message)

    async def Wait(self, request: Any, context: grpc.aio.ServicerContext) -> Any:  # noqa: N802 # the RPC's name
        jobs = [await self._find(job_id, context) for job_id in request.job_ids]
        for job in jobs:
            await job.ended.wait()
        return pb.WaitResponse(jobs=[job.message for job in jobs])

    async def Query(self, request: Any, context: grpc.aio.ServicerContext) -> Any:  # noqa: N802 # the RPC's name
        return pb.QueryResponse(job=(await self._find(request.job_id, context)).message)

    async def Stream(self, request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:  # noqa: N802 # the RPC's name
        job = await self._find(request.job_id, context)
        async for piece in job.follow():
            yield piece
        message = job.message
        verdict = pb.Verdict(end_offset=message.output_bytes, state=message.state)
        if message.HasField("exit_code"):
            verdict.exit_code = message.exit_code
        yield pb.StreamResponse(verdict=verdict)

    async def _find(self, job_id: str, context: grpc.aio.ServicerContext) -> Job:
        job = self._jobs.get(job_id)
        if job is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such job")
            raise AssertionError("abort raises")
        return job


async def serve(certificate: Path, key: Path, ca: Path) -> None:
    """Serve on a free loopback port until SIGTERM."""
    server = grpc.aio.server()
    pb_grpc.add_JobWorkerServiceServicer_to_server(Runner(), server)
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    pair = (key.read_bytes(), certificate.read_bytes())
    credentials = grpc.ssl_server_credentials([pair], ca.read_bytes(), require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    print(f"the reference is listening on 127.0.0.1:{port}", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(serve(*map(Path, sys.argv[2:5])))
