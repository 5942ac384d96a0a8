"""A client of :mod:`tests.benchmarks.references.framed`, as little as that: it runs a job, and writes what that writes.

It speaks to any server of the contract that never waits for it: its windows are as large as they can be, and are never
opened again, so it is for less than 2 GiB. No deadline, no retry, no error that it would tell from another.

``python -m tests.benchmarks.references.framed_client STUBS SERVER CERT KEY CA WORD…``
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import hpack
import trio

from api.malloc import keep_what_is_freed
from api.rpc.stream import RECEIVE, TLSStream
from api.tls import client_context
from tests.benchmarks.correct import check
from tests.benchmarks.references import framed as f
from tests.benchmarks.references.framed import pb

MOST: Final = 2**31 - 1
PREFIX: Final = struct.Struct(">BL")


class Client:
    """One connection, one call after the other."""

    def __init__(self, stream: TLSStream, server: str) -> None:
        self._stream = stream
        self._server = server
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self._calls = 0
        self._come = bytearray()
        settings = f.SETTING.pack(f.INITIAL_WINDOW_SIZE, MOST)
        more = (MOST - 65_535).to_bytes(4, "big")
        stream.write([f.PREFACE, f.frame(f.SETTINGS, 0, 0, settings), f.frame(f.WINDOW_UPDATE, 0, 0, more)])

    async def call(self, method: str, request: bytes) -> AsyncIterator[bytes]:
        """The messages of the answer."""
        headers = {":method": "POST", ":scheme": "https", ":path": f"/jobworker.v1.JobWorkerService/{method}"}
        headers |= {":authority": self._server, "te": "trailers", "content-type": "application/grpc"}
        stream, self._calls = 2 * self._calls + 1, self._calls + 1
        begin = f.frame(f.HEADERS, f.END_HEADERS, stream, self._encoder.encode(headers.items()))
        message = PREFIX.pack(0, len(request)) + request
        self._stream.write([begin, f.frame(f.DATA, f.END_STREAM, stream, message)])
        unread = bytearray()
        async for kind, flags, payload in self._frames(stream):
            if kind == f.HEADERS:
                found = dict(self._decoder.decode(payload))
                if flags & f.END_STREAM:
                    check(found["grpc-status"] == "0", f"{method}: {found}")
                    return
            elif kind == f.DATA:
                unread += payload
                while len(unread) >= PREFIX.size and len(unread) >= (
                    end := PREFIX.size + PREFIX.unpack_from(unread)[1]
                ):
                    message = bytes(unread[PREFIX.size : end])
                    del unread[:end]
                    yield message

    async def _frames(self, stream: int) -> AsyncIterator[tuple[int, int, bytes]]:
        """Those of a call; what is asked meanwhile is answered."""
        while True:
            data = await self._stream.receive()
            check(len(data) > 0, "the server has gone")
            self._come += data
            for kind, flags, number, payload in f.frames_of(self._come):
                if kind in (f.SETTINGS, f.PING) and not flags & f.ACK:
                    answer = payload if kind == f.PING else b""
                    self._stream.write([f.frame(kind, f.ACK, 0, answer)])
                elif number == stream:
                    yield kind, flags, payload


async def run(server: str, certificate: Path, key: Path, ca: Path, argv: list[str]) -> int:
    """As ``ssh`` does it."""
    host, port = server.rsplit(":", 1)
    context = client_context(certificate=certificate, key=key, ca=ca)
    sock = socket.create_connection((host, int(port)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream = await TLSStream.handshake(sock, context, server_side=False, server_hostname=host, receive_size=RECEIVE)
    client, code = Client(stream, server), -1
    request = pb.StartRequest(spec=pb.JobSpec(argv=argv)).SerializeToString()
    (job_id,) = [pb.StartResponse.FromString(each).job.id async for each in client.call("Start", request)]
    async for message in client.call("Stream", pb.StreamRequest(job_id=job_id).SerializeToString()):
        answer = pb.StreamResponse.FromString(message)
        if answer.HasField("verdict"):
            code = answer.verdict.exit_code
        else:
            os.write(sys.stdout.fileno(), answer.output.data)
    await stream.aclose()
    return code


if __name__ == "__main__":
    keep_what_is_freed()
    sys.exit(trio.run(run, sys.argv[2], *map(Path, sys.argv[3:6]), sys.argv[6:]))
