"""The steps of a remote job that jobd promises, in a trio program, and nothing else: what this stack can do at best.

A command comes over TLS. It is recorded before it is begun, that it runs and how it ended are, too (three commits of
SQLite, together with those of others that wait for one); what it writes is moved by splice(2) into a file, read back,
summed up and marked, as in ``jobd.output``; then it goes on its way. There is no HTTP/2, no message, no contract, no
second call, no role, no audit, no queue, no stop, no launcher that outlives the server, no control group, no second
follower, no late one, and no bound on what a client may make it hold: whatever jobd takes more than this is for those,
and what this takes, nobody saves who keeps the promises and the stack.

``python -m tests.benchmarks.references.bare serve CERT KEY CA DIRECTORY``, and with the words SERVER CERT KEY CA behind
each: ``… run WORD…``; ``… relay WORD…``, the same without a record of its output; ``… jobs COUNT AT-ONCE``, which
prints how many a second; ``… held COUNT AT-ONCE``, the same with jobs that are forked and held as jobd's are
(:mod:`tests.benchmarks.references.held`); ``… memory MIB``, which prints how many MiB a second come out of memory.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import socket
import sqlite3
import ssl
import struct
import subprocess
import sys
import termios
import time
import uuid
import zlib
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from api.malloc import keep_what_is_freed
from api.rpc.stream import RECEIVE, TLSStream
from api.tls import client_context, server_context
from tests.benchmarks.correct import check
from tests.benchmarks.payload import MIB, kept
from tests.benchmarks.references.held import Held, holding

HEAD: Final = struct.Struct(">IB")
"""In front of what the server says: how many bytes, of what kind."""
DATA, EXIT = range(2)
MEMORY: Final = bytes(range(256)) * (MIB // 256)
SMALL: Final = 16 * 1024
"""Bytes that are recorded in the loop, as jobd does it; more is a thread's work."""
MARK: Final = struct.Struct("<QQI20x")


class Store:
    """Who commits takes those along who have come meanwhile."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for line in (
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
            "CREATE TABLE jobs (id PRIMARY KEY, what)",
        ):
            self._connection.execute(line)
        self._lock = trio.Lock()
        self._waiting: list[tuple[str, str]] = []
        self._done = trio.Event()

    async def commit(self, job_id: str, **what: Any) -> None:
        """Make it durable."""
        self._waiting.append((job_id, json.dumps(what)))
        done = self._done
        async with self._lock:
            if done.is_set():
                return
            batch, self._waiting = self._waiting, []
            self._done = trio.Event()
            await trio.to_thread.run_sync(self._write, batch)
            done.set()

    def _write(self, batch: list[tuple[str, str]]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("INSERT OR REPLACE INTO jobs VALUES (?, ?)", batch)
        self._connection.execute("COMMIT")


class Record:
    """What one job wrote, of both its streams."""

    def __init__(self, directory: Path, job_id: str) -> None:
        self._path = directory / job_id
        self._files: tuple[int, int] | None = None
        self.end = self._sum = 0

    def take(self, pipe: int) -> bytes:
        """Move what is there into the file; what it is. The file is made with the first byte."""
        if self._files is None:
            flags = os.O_RDWR | os.O_CREAT
            self._files = os.open(self._path, flags, 0o600), os.open(f"{self._path}.index", flags, 0o600)
        data, index = self._files
        try:
            size = os.splice(pipe, data, MIB, offset_dst=self.end, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return b""
        found = os.pread(data, size, self.end)
        self.end += size
        self._sum = zlib.crc32(found, self._sum)
        os.pwrite(index, MARK.pack(self.end, time.time_ns(), self._sum), 0)
        return found

    def finish(self) -> None:
        """On the disk."""
        for file in self._files or ():
            os.fdatasync(file)
            os.close(file)


class Unrecorded:
    """As :class:`Record`, and nothing is kept."""

    end = 0

    def take(self, pipe: int) -> bytes:
        return os.read(pipe, MIB)

    def finish(self) -> None:
        """There is nothing."""


async def serve(certificate: Path, key: Path, ca: Path, directory: Path) -> None:
    """Serve until SIGTERM."""
    context = server_context(certificate=certificate, key=key, ca=ca)
    directory.mkdir()
    store = Store(directory / "jobs.sqlite3")
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        listener.setblocking(False)
        print(f"the bare server is listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
        async with holding() as held, trio.open_nursery() as nursery:
            nursery.start_soon(until_sigterm, nursery.cancel_scope)
            while True:
                await trio.lowlevel.wait_readable(listener)
                nursery.start_soon(_connection, listener.accept()[0], context, store, directory, held)


async def until_sigterm(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


async def _connection(sock: socket.socket, context: ssl.SSLContext, store: Store, directory: Path, held: Held) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream = await TLSStream.handshake(sock, context, server_side=True, receive_size=SMALL)
    try:
        while order := bytes(await stream.receive()):
            match json.loads(order):
                case int(pieces):
                    await _memory(stream, pieces)
                case ["held", list(argv)]:
                    await _held(stream, argv, store, Record(directory, str(uuid.uuid4())), held)
                case [bool(recorded), list(argv)]:
                    await _job(stream, argv, store, Record(directory, str(uuid.uuid4())) if recorded else Unrecorded())
    finally:
        await stream.aclose()


async def _memory(stream: TLSStream, pieces: int) -> None:
    for _ in range(pieces):
        await _send(stream, MEMORY)
    await _send(stream, b"\0", EXIT)


async def _job(stream: TLSStream, argv: list[str], store: Store, record: Record | Unrecorded) -> None:
    job_id = str(uuid.uuid4())
    await store.commit(job_id, argv=argv, state="starting")
    with _popen(argv) as process:
        ended = os.pidfd_open(process.pid)
        try:
            async with trio.open_nursery() as nursery:
                for pipe in (process.stdout, process.stderr):
                    assert pipe is not None
                    nursery.start_soon(carry, pipe.fileno(), record, partial(_piece, stream))
                await store.commit(job_id, argv=argv, state="running", pid=process.pid)
            await trio.lowlevel.wait_readable(ended)
        finally:
            os.close(ended)
        code = process.wait()
    await trio.to_thread.run_sync(record.finish)
    await store.commit(job_id, argv=argv, state="ended", code=code)
    await _send(stream, bytes([code & 0xFF]), EXIT)


async def _held(stream: TLSStream, argv: list[str], store: Store, record: Record, held: Held) -> None:
    job_id = str(uuid.uuid4())
    await store.commit(job_id, argv=argv, state="starting")
    job = held.begin(job_id, argv)
    pid, pipes = await job.runs()
    async with trio.open_nursery() as nursery:
        for pipe in pipes:
            nursery.start_soon(carry, pipe, record, partial(_piece, stream))
        await store.commit(job_id, argv=argv, state="running", pid=pid)
    for pipe in pipes:
        os.close(pipe)
    code = os.waitstatus_to_exitcode(await job.ended())
    await trio.to_thread.run_sync(record.finish)
    await store.commit(job_id, argv=argv, state="ended", code=code)
    await _send(stream, bytes([code & 0xFF]), EXIT)


def _popen(argv: list[str]) -> subprocess.Popen[bytes]:
    """In the loop: a hop to a thread costs more than a vfork."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, pipesize=MIB, bufsize=0, start_new_session=True
    )


async def carry(pipe: int, record: Record | Unrecorded, send: Callable[[bytes, int], Awaitable[None]]) -> None:
    """Record and send what comes out of a pipe; while a piece is sent, the next one is recorded.

    Args:
        send: is given a piece that is not empty, and where it ends in the record.
    """
    os.set_blocking(pipe, False)
    piece, end = b"", 0
    while True:
        if not piece:
            await trio.lowlevel.wait_readable(pipe)
        size = _in_pipe(pipe)
        if size <= SMALL:
            if piece:
                await send(piece, end)
            elif not size:
                return  # readable, and nothing in it
            piece = b""
            if size and (little := record.take(pipe)):
                await send(little, record.end)
            continue
        async with trio.open_nursery() as nursery:
            if piece:
                nursery.start_soon(send, piece, end)
            piece = await trio.to_thread.run_sync(record.take, pipe)
            end = record.end


def _in_pipe(pipe: int) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


async def _piece(stream: TLSStream, piece: bytes, end: int) -> None:
    await _send(stream, piece)


async def _send(stream: TLSStream, data: bytes, kind: int = DATA) -> None:
    if data:
        stream.write([HEAD.pack(len(data), kind), data])
        if stream.pending:
            await stream.drain()


class Client:
    """One connection, one job after the other."""

    def __init__(self, stream: TLSStream) -> None:
        self._stream = stream

    @classmethod
    async def connect(cls, server: str, certificate: Path, key: Path, ca: Path) -> Client:
        host, port = server.rsplit(":", 1)
        context = client_context(certificate=certificate, key=key, ca=ca)
        sock = socket.create_connection((host, int(port)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(
            await TLSStream.handshake(sock, context, server_side=False, server_hostname=host, receive_size=RECEIVE)
        )

    async def run(self, order: list[Any] | int, take: Callable[[memoryview], int]) -> int:
        """Give what the job writes to somebody who says how much of it was taken; its exit code."""
        self._stream.write([json.dumps(order).encode()])
        head, left, kind = bytearray(), 0, DATA
        while True:
            data = await self._stream.receive()
            check(len(data) > 0, "the bare server has gone")
            while data:
                if not left:
                    more = HEAD.size - len(head)
                    head += data[:more]
                    data = data[more:]
                    if len(head) == HEAD.size:
                        left, kind = HEAD.unpack(head)
                        head.clear()
                    continue
                if kind == EXIT:
                    return data[0]
                taken = take(data[:left])
                left -= taken
                data = data[taken:]

    async def aclose(self) -> None:
        await self._stream.aclose()


async def run(server: str, certificate: Path, key: Path, ca: Path, order: list[Any]) -> int:
    """As ``ssh`` does it."""
    client = await Client.connect(server, certificate, key, ca)
    code = await client.run(order, partial(os.write, sys.stdout.fileno()))
    await client.aclose()
    return code


async def jobs(
    server: str, certificate: Path, key: Path, ca: Path, count: int, at_once: int, kind: str | bool = True
) -> float:
    """How many a second, so many at a time."""
    clients = [await Client.connect(server, certificate, key, ca) for _ in range(at_once)]

    async def some(client: Client, number: int) -> None:
        for _ in range(number):
            check(await client.run([kind, ["/bin/true"]], len) == 0, "a bare job failed")

    for client in clients:
        await some(client, 1)
    begin = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(some, client, count // at_once)
    seconds = time.perf_counter() - begin
    for client in clients:
        await client.aclose()
    return count / seconds


async def memory(server: str, certificate: Path, key: Path, ca: Path, pieces: int) -> float:
    """MiB a second."""
    client = await Client.connect(server, certificate, key, ca)
    with kept(pieces * MIB) as came:

        def take(data: memoryview) -> int:
            came.take(data)
            return len(data)

        begin = time.perf_counter()
        await client.run(pieces, take)
        seconds = time.perf_counter() - begin
        expected = hashlib.sha256()
        for _ in range(pieces):
            expected.update(MEMORY)
        came.judge(expected.digest(), "the bare client")
    await client.aclose()
    return pieces / seconds


if __name__ == "__main__":
    keep_what_is_freed()
    what, *words = sys.argv[1:]
    if what == "serve":
        trio.run(serve, *map(Path, words))
    elif what in ("run", "relay"):
        sys.exit(trio.run(run, words[0], *map(Path, words[1:4]), [what == "run", words[4:]]))
    else:
        asked = {"jobs": jobs, "held": partial(jobs, kind="held"), "memory": memory}[what]
        print(trio.run(asked, words[0], *map(Path, words[1:4]), *map(int, words[4:])))
