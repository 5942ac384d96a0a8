"""A grpcio client in a process of its own, led by its parent: a JSON object a line in, the answer a line out.

``python -m tests.interop.grpcio_client STUBS SERVER CERT KEY CA [MS]``: MS is the time between two keepalive PINGs, if
there are to be any. Everything goes over one channel. The methods of
:class:`Client` are the operations; the end of stdin ends it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import queue
import sys
import threading
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message

from tests.support.patience import patient

SERVICE = "jobworker.v1.JobWorkerService"
Answer = dict[str, Any]


class Client:
    """One channel, and the calls that are open on it."""

    def __init__(self, server: str, certificate: Path, key: Path, ca: Path, ping: int = 0) -> None:
        from jobworker.v1 import job_worker_pb2, job_worker_pb2_grpc

        credentials = grpc.ssl_channel_credentials(ca.read_bytes(), key.read_bytes(), certificate.read_bytes())
        options = [("grpc.enable_http_proxy", 0)]
        if ping:  # without a limit: gRPC's own lets two go without DATA between them
            patience = int(patient(20) * 1000)
            options += [("grpc.keepalive_time_ms", ping), ("grpc.keepalive_timeout_ms", patience)]
            options += [("grpc.http2.max_pings_without_data", 0)]
        self.channel = grpc.secure_channel(server, credentials, options=options)
        self.stub = job_worker_pb2_grpc.JobWorkerServiceStub(self.channel)
        self._messages = job_worker_pb2
        self._open: dict[int, Any] = {}
        self._handles = itertools.count()
        self._requests: dict[int, queue.SimpleQueue[Message | None]] = {}
        self._left = threading.Event()

    def call(self, method: str, request: dict[str, Any], timeout: float = 20, gzip: bool = False) -> Answer:
        """A unary call to its end."""
        compression = grpc.Compression.Gzip if gzip else None
        function = getattr(self.stub, method)
        return _outcome(function.future(self._request(method, request), timeout=timeout, compression=compression))

    def unknown(self, path: str) -> Answer:
        """A unary call to any path, with an empty message."""
        return _outcome(self.channel.unary_unary(path).future(b"", timeout=patient(20)))

    def upload(self, path: str, messages: list[str]) -> Answer:
        """A call in which the client alone streams, to its end: messages and answer are bytes, as texts."""
        function = self.channel.stream_unary(path)
        future = function.future(iter([each.encode() for each in messages]), timeout=patient(20))
        answer = _outcome(future)
        return {**answer, "answer": future.result().decode() if answer["code"] == "OK" else ""}

    def begin(self, method: str, request: dict[str, Any], timeout: float = 20) -> Answer:
        """Begin a call, unary or streaming; ``finish``, ``next``, ``rest`` and ``cancel`` go on with it."""
        function = getattr(self.stub, method)
        handle = next(self._handles)
        start = function if method == "Stream" else function.future
        self._open[handle] = start(self._request(method, request), timeout=timeout)
        return {"handle": handle}

    def converse(self, method: str, timeout: float = 20) -> Answer:
        """Begin a call in which both sides speak: ``say`` and ``half_close`` are its requests, ``next`` and so on its
        answers."""
        handle = next(self._handles)
        requests = self._requests[handle] = queue.SimpleQueue[Message | None]()
        self._open[handle] = getattr(self.stub, method)(iter(requests.get, None), timeout=timeout)
        return {"handle": handle}

    def say(self, handle: int, method: str, request: dict[str, Any]) -> Answer:
        """Send a request."""
        self._requests[handle].put(self._request(method, request))
        return {}

    def half_close(self, handle: int) -> Answer:
        """Send no more."""
        self._requests[handle].put(None)
        return {}

    def finish(self, handle: int) -> Answer:
        """The outcome of a unary call."""
        return _outcome(self._open.pop(handle))

    def next(self, handle: int) -> Answer:
        """The next message of a stream."""
        return _as_dict(next(self._open[handle]))

    def cancel(self, handle: int) -> Answer:
        """Give a stream up."""
        call = self._open.pop(handle)
        call.cancel()
        if requests := self._requests.pop(handle, None):
            requests.put(None)  # or the thread that waits for more would stay
        return {"code": call.code().name}

    def rest(self, handle: int) -> Answer:
        """All further messages of a stream, in short."""
        digest = _digest(self._open.pop(handle))
        if requests := self._requests.pop(handle, None):
            requests.put(None)
        return digest

    def stream(self, request: dict[str, Any], timeout: float = 60) -> Answer:
        """A stream from beginning to end, in short."""
        return _digest(self.stub.Stream(self._request("Stream", request), timeout=timeout))

    def watch(self) -> Answer:
        """Begin to watch the connection, which is there."""
        ready = threading.Event()

        def see(state: grpc.ChannelConnectivity) -> None:
            if state is grpc.ChannelConnectivity.READY:
                ready.set()
            elif ready.is_set():
                self._left.set()

        self.channel.subscribe(see, try_to_connect=True)
        return {"ready": ready.wait(20)}

    def left(self) -> Answer:
        """Wait until the server has said that this connection takes no more calls (after ``watch``)."""
        return {"left": self._left.wait(20)}

    def _request(self, method: str, fields: dict[str, Any]) -> Message:
        request: Message = getattr(self._messages, f"{method}Request")()
        json_format.ParseDict(fields, request)
        return request


def _outcome(future: grpc.Future) -> Answer:
    error = future.exception()
    answer: Answer = {"code": future.code().name, "message": future.details(), **_details(future.trailing_metadata())}
    if error is None:
        answer["response"] = _as_dict(future.result())
    return answer


def _details(trailers: Any) -> Answer:
    """What ``grpc-status-details-bin`` says."""
    from rpc_details_pb2 import BadRequest, ErrorInfo, RetryInfo, Status

    raw = dict(trailers or ()).get("grpc-status-details-bin")
    if raw is None:
        return {}
    status, info, bad, retry = Status.FromString(raw), ErrorInfo(), BadRequest(), RetryInfo()
    kinds = [each.TypeName() for each in status.details if any(each.Unpack(known) for known in (info, bad, retry))]
    return {
        "status_code": status.code,
        "status_message": status.message,
        "details": kinds,
        "reason": info.reason,
        "domain": info.domain,
        "metadata": dict(info.metadata),
        "retry_after": retry.retry_delay.ToMicroseconds() / 1e6,
        "violations": [violation.field for violation in bad.field_violations],
    }


def _digest(call: Any) -> Answer:
    hashes = {1: hashlib.sha256(), 2: hashlib.sha256()}
    sizes = {1: 0, 2: 0}
    kinds: list[str] = []
    verdict: Answer | None = None
    gaps = 0
    position: int | None = None
    try:
        for message in call:
            kinds.append(message.WhichOneof("event"))
            if kinds[-1] == "verdict":
                verdict = _as_dict(message.verdict)
                continue
            if kinds[-1] != "output":
                continue
            output = message.output
            gaps += position is not None and output.offset != position
            position = output.offset + len(output.data)
            hashes[output.source].update(output.data)
            sizes[output.source] += len(output.data)
    except grpc.RpcError:
        pass  # told by the code
    return {
        "code": call.code().name,
        "kinds": kinds,
        "gaps": gaps,
        "verdict": verdict,
        "stdout": {"size": sizes[1], "sha256": hashes[1].hexdigest()},
        "stderr": {"size": sizes[2], "sha256": hashes[2].hexdigest()},
        **_details(call.trailing_metadata()),
    }


def _as_dict(message: Message | bytes) -> Answer:
    if isinstance(message, bytes):
        return {}
    fields: Answer = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return fields


def main() -> None:
    """Answer the parent until it has nothing more to ask."""
    stubs, server, certificate, key, ca, *ping = sys.argv[1:]
    sys.path.insert(0, stubs)
    client = Client(server, Path(certificate), Path(key), Path(ca), *map(int, ping))
    for line in sys.stdin:
        question = json.loads(line)
        answer = getattr(client, question.pop("op"))(**question)
        print(json.dumps(answer), flush=True)
    client.channel.close()


if __name__ == "__main__":
    main()
