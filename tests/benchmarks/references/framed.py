"""What :mod:`tests.benchmarks.references.bare` does, for a gRPC client: the least that this stack can do to serve one.

A job is started by Start, and followed by one Stream (which has all that it writes, recorded as in ``bare``, and its
verdict) or waited for by one Wait; it is forked and held as jobd's are (:mod:`tests.benchmarks.references.held`). The
frames are put together by hand (RFC 9113): the peer's windows and the size of its frames are kept to, pings are
answered, and that is all. There is no state machine, no error of a client's that it would meet, no second follower, no
heartbeat, no role, no audit, no queue, no stop, and no bound on what is held.

``python -m tests.benchmarks.references.framed STUBS CERT KEY CA DIRECTORY``
"""

from __future__ import annotations

import fcntl
import os
import socket
import ssl
import struct
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import hpack
import trio

from api.malloc import keep_what_is_freed
from api.rpc.stream import TLSStream
from api.tls import server_context
from tests.benchmarks.payload import MIB
from tests.benchmarks.references.bare import SMALL, Record, Store, carry, until_sigterm
from tests.benchmarks.references.held import Held, Job, holding

sys.path.insert(0, sys.argv[1])

from jobworker.v1 import job_worker_pb2 as pb  # made at run time

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
ACK = END_STREAM = 1
END_HEADERS: Final = 4
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 3, 4, 5
HEAD: Final = struct.Struct(">HBBBL")
SETTING: Final = struct.Struct(">HL")
CHUNK: Final = 256 * 1024
"""Bytes between two looks at the socket."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A whole one."""
    return head(len(payload), kind, flags, stream) + payload


def head(size: int, kind: int, flags: int, stream: int) -> bytes:
    """In front of a payload of so many bytes."""
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream)


def frames_of(come: bytearray) -> Iterator[tuple[int, int, int, bytes]]:
    """Those that are whole, taken out of what has come: kind, flags, stream, payload."""
    while len(come) >= HEAD.size:
        high, low, kind, flags, stream = HEAD.unpack_from(come)
        end = HEAD.size + (high << 8 | low)
        if len(come) < end:
            return
        payload = bytes(come[HEAD.size : end])
        del come[:end]
        yield kind, flags, stream, payload


def varint(number: int) -> bytes:
    """As protobuf writes it."""
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*made, number])


def around(data: bytes, offset: int) -> bytes:
    """What stands in front of some output in a StreamResponse, whose last field it is made to be."""
    place = pb.Output(offset=offset, source=pb.OUTPUT_SOURCE_STDOUT)
    place.time.FromNanoseconds(time.time_ns())
    inner = place.SerializeToString() + bytes([pb.Output.DESCRIPTOR.fields_by_name["data"].number << 3 | 2])
    inner += varint(len(data))
    outer = bytes([pb.StreamResponse.DESCRIPTOR.fields_by_name["output"].number << 3 | 2])
    return outer + varint(len(inner) + len(data)) + inner


@dataclass
class Running:
    """A job that nobody has followed or waited for yet."""

    job: Job
    pipes: list[int]
    record: Record


@dataclass
class Place:
    """What all connections share."""

    store: Store
    directory: Path
    held: Held
    nursery: trio.Nursery
    jobs: dict[str, Running] = field(default_factory=dict)


class Connection:
    """One client."""

    def __init__(self, stream: TLSStream, place: Place) -> None:
        self._stream = stream
        self._place = place
        self._decoder, self._encoder = hpack.Decoder(), hpack.Encoder()
        self._windows: dict[int, int] = {0: 65_535}
        self._initial, self._most = 65_535, 16_384
        self._opened = trio.Event()
        self._methods: dict[int, str] = {}

    async def run(self) -> None:
        """Until the client has gone."""
        settings = SETTING.pack(MAX_CONCURRENT_STREAMS, 1000)
        self._stream.write([frame(SETTINGS, 0, 0, settings), frame(WINDOW_UPDATE, 0, 0, (2**30).to_bytes(4, "big"))])
        come = bytearray()
        async with trio.open_nursery() as nursery:
            while data := await self._stream.receive():
                come += data
                if come.startswith(PREFACE):
                    del come[: len(PREFACE)]
                for kind, flags, stream, payload in frames_of(come):
                    if kind == DATA and payload:
                        nursery.start_soon(self._call, stream, payload[5:])
                    else:
                        self._take(kind, flags, stream, payload)
            nursery.cancel_scope.cancel()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == HEADERS:
            self._methods[stream] = dict(self._decoder.decode(payload))[":path"].rpartition("/")[2]
            self._windows[stream] = self._initial
        elif kind == SETTINGS and not flags & ACK:
            found = dict(SETTING.iter_unpack(payload))
            more = found.get(INITIAL_WINDOW_SIZE, self._initial) - self._initial
            self._initial += more
            self._windows = {each: size + more if each else size for each, size in self._windows.items()}
            self._most = found.get(MAX_FRAME_SIZE, self._most)
            self._stream.write([frame(SETTINGS, ACK, 0)])
            self._open()
        elif kind == PING and not flags & ACK:
            self._stream.write([frame(PING, ACK, 0, payload)])
        elif kind == WINDOW_UPDATE and stream in self._windows:
            self._windows[stream] += int.from_bytes(payload, "big")
            self._open()

    def _open(self) -> None:
        self._opened.set()
        self._opened = trio.Event()

    # ---- calls

    async def _call(self, stream: int, request: bytes) -> None:
        methods: dict[str, Callable[[int, bytes], Awaitable[None]]]
        methods = {"Start": self._start, "Stream": self._follow, "Wait": self._wait}
        await methods[self._methods.pop(stream)](stream, request)
        del self._windows[stream]

    async def _start(self, stream: int, request: bytes) -> None:
        asked = pb.StartRequest.FromString(request)
        job_id, argv = str(uuid.uuid4()), list(asked.spec.argv)
        await self._place.store.commit(job_id, argv=argv, state="starting")
        begun = self._place.held.begin(job_id, argv)
        pid, pipes = await begun.runs()
        self._place.jobs[job_id] = Running(begun, pipes, Record(self._place.directory, job_id))
        self._place.nursery.start_soon(partial(self._place.store.commit, job_id, argv=argv, state="running", pid=pid))
        job = pb.Job(id=job_id, spec=asked.spec, state=pb.JOB_STATE_RUNNING, pid=pid)
        self._begin(stream)
        await self._message(stream, pb.StartResponse(job=job).SerializeToString())
        self._end(stream)

    async def _follow(self, stream: int, request: bytes) -> None:
        self._begin(stream)
        code, size = await self._see_out(pb.StreamRequest.FromString(request).job_id, stream)
        verdict = pb.Verdict(end_offset=size, state=pb.JOB_STATE_SUCCEEDED, exit_code=code)
        await self._message(stream, pb.StreamResponse(verdict=verdict).SerializeToString())
        self._end(stream)

    async def _wait(self, stream: int, request: bytes) -> None:
        (job_id,) = pb.WaitRequest.FromString(request).job_ids
        code, size = await self._see_out(job_id, 0)
        job = pb.Job(id=job_id, state=pb.JOB_STATE_SUCCEEDED, exit_code=code, output_bytes=size)
        self._begin(stream)
        await self._message(stream, pb.WaitResponse(jobs=[job]).SerializeToString())
        self._end(stream)

    async def _see_out(self, job_id: str, stream: int) -> tuple[int, int]:
        """To a job's end; its exit code, and how much it wrote: to that stream, or none (0)."""
        running = self._place.jobs.pop(job_id)
        async with trio.open_nursery() as nursery:
            for pipe in running.pipes:
                if stream:
                    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, MIB)
                nursery.start_soon(carry, pipe, running.record, partial(self._piece, stream))
        for pipe in running.pipes:
            os.close(pipe)
        code = os.waitstatus_to_exitcode(await running.job.ended())
        await trio.to_thread.run_sync(running.record.finish)
        await self._place.store.commit(job_id, state="ended", code=code)
        return code, running.record.end

    async def _piece(self, stream: int, piece: bytes, end: int) -> None:
        if stream:
            await self._message(stream, around(piece, end - len(piece)), piece)

    # ---- what goes out

    def _begin(self, stream: int) -> None:
        block = self._encoder.encode([(":status", "200"), ("content-type", "application/grpc+proto")])
        self._stream.write([frame(HEADERS, END_HEADERS, stream, block)])

    def _end(self, stream: int) -> None:
        block = self._encoder.encode([("grpc-status", "0")])
        self._stream.write([frame(HEADERS, END_HEADERS | END_STREAM, stream, block)])

    async def _message(self, stream: int, front: bytes, data: bytes = b"") -> None:
        front = struct.pack(">BL", 0, len(front) + len(data)) + front
        sent, size, view = 0, len(front) + len(data), memoryview(data)
        while sent < size:
            while (room := min(self._windows[0], self._windows[stream], self._most, size - sent, CHUNK)) <= 0:
                await self._opened.wait()
            for number in (0, stream):
                self._windows[number] -= room
            begin = sent - len(front)
            parts: list[Any] = [head(room, DATA, 0, stream), front[sent:], view[max(begin, 0) : begin + room]]
            self._stream.write(parts)
            sent += room
            if self._stream.pending:
                await self._stream.drain()


async def serve(certificate: Path, key: Path, ca: Path, directory: Path) -> None:
    """Serve until SIGTERM."""
    context = server_context(certificate=certificate, key=key, ca=ca)
    directory.mkdir()
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        listener.setblocking(False)
        print(f"the framed server is listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
        async with holding() as held, trio.open_nursery() as nursery:
            place = Place(Store(directory / "jobs.sqlite3"), directory, held, nursery)
            nursery.start_soon(until_sigterm, nursery.cancel_scope)
            while True:
                await trio.lowlevel.wait_readable(listener)
                nursery.start_soon(_connection, listener.accept()[0], context, place)


async def _connection(sock: socket.socket, context: ssl.SSLContext, place: Place) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        stream = await TLSStream.handshake(sock, context, server_side=True, receive_size=SMALL)
        await Connection(stream, place).run()
        await stream.aclose()
    except trio.BrokenResourceError:
        sock.close()


if __name__ == "__main__":
    keep_what_is_freed()
    trio.run(serve, *map(Path, sys.argv[2:]))
