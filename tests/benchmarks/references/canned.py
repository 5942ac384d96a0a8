"""A gRPC server that does nothing: its answers were made before anybody asked. What a client can take of any server.

gRPC's own, in C++: threads, and no message is made, read or kept while the clock runs. Of the contract it has what the
measurements of streams ask for. With a directory it does as little as a server can that records: a job is run, what it
writes is recorded as in ``bare``, in a thread of its own, and goes out behind its place and time.

``python -m tests.benchmarks.references.canned STUBS CERT KEY CA PAYLOAD [DIRECTORY]``
"""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from api.malloc import keep_what_is_freed
from tests.benchmarks.payload import written_by
from tests.benchmarks.references.bare import Record

sys.path.insert(0, sys.argv[1])

from jobworker.v1 import job_worker_pb2 as pb  # made at run time

MESSAGE = 1024 * 1024
"""Bytes of output in a message: as many as jobd's have when a client catches up."""
THREADS = 16


def answers(payload: Path) -> list[bytes]:
    """All messages of a stream of the whole file, but for the verdict."""
    made, offset = [], 0
    with payload.open("rb") as file:
        while data := file.read(MESSAGE):
            output = pb.Output(data=data, offset=offset, source=pb.OUTPUT_SOURCE_STDOUT)
            made.append(pb.StreamResponse(output=output).SerializeToString())
            offset += len(data)
    return made


def recorded(payload: Path, size: int, directory: Path) -> Iterator[bytes]:
    """All messages of a job that writes so much of the file, but for the verdict."""
    with subprocess.Popen(written_by(payload, size), stdout=subprocess.PIPE, pipesize=MESSAGE, bufsize=0) as job:
        assert job.stdout is not None
        record, offset, pipe = Record(directory, str(uuid.uuid4())), 0, job.stdout.fileno()
        while select.select([pipe], [], [])[0] and (data := record.take(pipe)):
            output = pb.Output(data=data, offset=offset, source=pb.OUTPUT_SOURCE_STDOUT)
            output.time.FromNanoseconds(time.time_ns())
            yield pb.StreamResponse(output=output).SerializeToString()
            offset += len(data)
        record.finish()


class Canned(grpc.GenericRpcHandler):  # type: ignore[misc] # grpc has no types
    """Start, Wait and Stream. A job is what it is asked to write: its id says how much."""

    def __init__(self, payload: Path, directory: Path | None) -> None:
        self._payload, self._directory = payload, directory
        self._answers = [] if directory else answers(payload)

    def service(self, details: Any) -> Any:
        """The handler of a method."""
        method = details.method.rpartition("/")[2]
        if method == "Stream":
            return grpc.unary_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler({"Start": _start, "Wait": _wait}[method])

    def _stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        size = int(pb.StreamRequest.FromString(request).job_id)
        yield from recorded(self._payload, size, self._directory) if self._directory else self._made(size)
        verdict = pb.Verdict(end_offset=size, state=pb.JOB_STATE_SUCCEEDED, exit_code=0)
        yield pb.StreamResponse(verdict=verdict).SerializeToString()

    def _made(self, size: int) -> Iterator[bytes]:
        whole, rest = divmod(size, MESSAGE)
        yield from self._answers[:whole]
        if rest:
            last = pb.StreamResponse.FromString(self._answers[whole])
            last.output.data = last.output.data[:rest]
            yield last.SerializeToString()


def _start(request: bytes, context: Any) -> bytes:
    argv = pb.StartRequest.FromString(request).spec.argv
    size = argv[2] if len(argv) > 2 else "0"  # head -c SIZE FILE, or true
    return bytes(pb.StartResponse(job=pb.Job(id=size)).SerializeToString())


def _wait(request: bytes, context: Any) -> bytes:
    jobs = [
        pb.Job(id=name, state=pb.JOB_STATE_SUCCEEDED, exit_code=0)
        for name in pb.WaitRequest.FromString(request).job_ids
    ]
    return bytes(pb.WaitResponse(jobs=jobs).SerializeToString())


def serve(certificate: Path, key: Path, ca: Path, payload: Path, directory: Path | None = None) -> None:
    """Serve on a free loopback port until SIGTERM."""
    server = grpc.server(ThreadPoolExecutor(THREADS), options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers((Canned(payload, directory),))
    pair = (key.read_bytes(), certificate.read_bytes())
    credentials = grpc.ssl_server_credentials([pair], ca.read_bytes(), require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    print(f"the canned server is listening on 127.0.0.1:{port}", flush=True)
    signal.sigwait({signal.SIGTERM})
    server.stop(None)


if __name__ == "__main__":
    keep_what_is_freed()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    serve(*map(Path, sys.argv[2:]))
