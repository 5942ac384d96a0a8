"""The steps of a streamed job in blocking loops, and nothing else: what the machine can do.

A process writes into a pipe; what comes out is written to a file and sent over TLS; a client reads it. No protocol, no
job, no second client.

``python -m tests.benchmarks.references.blocking serve CERT KEY CA FILE``: each connection begins with two numbers,
the size and 1 or 0: through a process and FILE, or out of memory.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from api.tls import client_context, server_context
from tests.benchmarks.measurements import MIB, check

PIECE: Final = 256 * 1024
ORDER: Final = 32


def serve(certificate: Path, key: Path, ca: Path, file: Path) -> None:
    """One connection after the other, until SIGTERM."""
    context = server_context(certificate=certificate, key=key, ca=ca)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"the loop is listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
        while True:
            plain, _ = listener.accept()
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with context.wrap_socket(plain, server_side=True) as sock:
                size, through_file = map(int, sock.recv(ORDER).split())
                if through_file:
                    _job(sock, size, file)
                else:
                    _memory(sock, size)


def _job(sock: ssl.SSLSocket, size: int, file: Path) -> None:
    command = ["head", "-c", str(size), "/dev/zero"]
    with file.open("wb", buffering=0) as record, subprocess.Popen(command, stdout=subprocess.PIPE, pipesize=MIB) as job:
        assert job.stdout is not None
        buffer = memoryview(bytearray(PIECE))
        while count := os.readv(job.stdout.fileno(), [buffer]):
            record.write(buffer[:count])
            sock.sendall(buffer[:count])


def _memory(sock: ssl.SSLSocket, size: int) -> None:
    piece = memoryview(bytes(PIECE))
    while size:
        sock.sendall(piece[:size])
        size -= min(size, PIECE)


def receive(server: str, certificate: Path, key: Path, ca: Path, size: int, *, through_file: bool) -> float:
    """MiB a second, from the connection that is there to the last byte.

    Raises:
        IncorrectRunError: not all of it came.
    """
    host, port = server.rsplit(":", 1)
    context = client_context(certificate=certificate, key=key, ca=ca)
    with (
        socket.create_connection((host, int(port))) as plain,
        context.wrap_socket(plain, server_hostname=host) as sock,
    ):
        begin = time.perf_counter()
        sock.sendall(f"{size} {int(through_file)}".encode())
        buffer, received = bytearray(PIECE), 0
        while received < size and (count := sock.recv_into(buffer)):
            received += count
        seconds = time.perf_counter() - begin
    check(received == size, f"{received} bytes came of {size}")
    return size / MIB / seconds


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*map(Path, sys.argv[2:6]))
    else:
        _, _, server, certificate, key, ca, size, through_file = sys.argv
        print(receive(server, Path(certificate), Path(key), Path(ca), int(size), through_file=through_file == "1"))
