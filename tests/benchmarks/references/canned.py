"""A gRPC server that does nothing: its answers were made before anybody asked. What a client can take of any server.

gRPC's own, in C++: threads, and no message is made, read or kept while the clock runs. Of the contract it has what the
measurements of streams ask for.

``python -m tests.benchmarks.references.canned STUBS CERT KEY CA PAYLOAD``
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from api.malloc import keep_what_is_freed

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


class Canned(grpc.GenericRpcHandler):  # type: ignore[misc] # grpc has no types
    """Start, Wait and Stream. A job is what it is asked to write: its id says how much."""

    def __init__(self, payload: Path) -> None:
        self._answers = answers(payload)

    def service(self, details: Any) -> Any:
        """The handler of a method."""
        method = details.method.rpartition("/")[2]
        if method == "Stream":
            return grpc.unary_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler({"Start": _start, "Wait": _wait}[method])

    def _stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        size = int(pb.StreamRequest.FromString(request).job_id)
        yield from self._made(size)
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


def serve(certificate: Path, key: Path, ca: Path, payload: Path) -> None:
    """Serve on a free loopback port until SIGTERM."""
    server = grpc.server(ThreadPoolExecutor(THREADS), options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers((Canned(payload),))
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
