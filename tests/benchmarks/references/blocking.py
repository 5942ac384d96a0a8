"""The steps of a streamed job in blocking loops, and nothing else: what the machine can do.

A process writes into a pipe; what comes out is written to a file and sent over TLS; a client reads it. No protocol, no
job, no second client.

``python -m tests.benchmarks.references.blocking serve CERT KEY CA FILE``: each connection begins with a number, and
the name of a file to read so many bytes of: through a process and FILE. Without a name they come out of memory.
"""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from api.tls import client_context, server_context
from tests.benchmarks.payload import MIB, Kept, have_memory, written_by

PIECE: Final = 256 * 1024
MEMORY: Final = bytes(range(256)) * (PIECE // 256)
ORDER: Final = 4096


def serve(certificate: Path, key: Path, ca: Path, file: Path) -> None:
    """One connection after the other, until SIGTERM."""
    context = server_context(certificate=certificate, key=key, ca=ca)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"the loop is listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
        while True:
            plain, _ = listener.accept()
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with context.wrap_socket(plain, server_side=True) as sock:
                size, _, payload = sock.recv(ORDER).decode().partition(" ")
                if payload:
                    _job(sock, int(size), payload, file)
                else:
                    _memory(sock, int(size))


def _job(sock: ssl.SSLSocket, size: int, payload: str, file: Path) -> None:
    command = written_by(payload, size)
    with file.open("wb", buffering=0) as record, subprocess.Popen(command, stdout=subprocess.PIPE, pipesize=MIB) as job:
        assert job.stdout is not None
        buffer = memoryview(bytearray(PIECE))
        while count := os.readv(job.stdout.fileno(), [buffer]):
            record.write(buffer[:count])
            sock.sendall(buffer[:count])


def _memory(sock: ssl.SSLSocket, size: int) -> None:
    piece = memoryview(MEMORY)
    while size:
        sock.sendall(piece[:size])
        size -= min(size, PIECE)


def memory_digest(size: int) -> bytes:
    """Of what comes out of memory."""
    found = hashlib.sha256()
    for start in range(0, size, PIECE):
        found.update(MEMORY[: size - start])
    return found.digest()


def receive(
    server: str, certificate: Path, key: Path, ca: Path, size: int, came: Kept, expected: bytes, payload: str = ""
) -> float:
    """MiB a second, from the connection that is there to the last byte.

    Args:
        came: room for all of it.
        expected: its hash.

    Raises:
        IncorrectRunError: not all of it came, or something else.
    """
    host, port = server.rsplit(":", 1)
    context = client_context(certificate=certificate, key=key, ca=ca)
    came.begin()
    have_memory(size)
    with (
        socket.create_connection((host, int(port))) as plain,
        context.wrap_socket(plain, server_hostname=host) as sock,
    ):
        begin = time.perf_counter()
        sock.sendall(f"{size} {payload}".encode())
        while came.came < size and (count := sock.recv_into(came.view(PIECE))):
            came.add(count)
        seconds = time.perf_counter() - begin
    came.judge(expected, "a blocking loop")
    return size / MIB / seconds


if __name__ == "__main__":
    serve(*map(Path, sys.argv[2:6]))
