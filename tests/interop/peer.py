"""The parent's side of ``tests.interop.grpcio_client``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from tests.interop.stubs import ROOT
from tests.support.patience import patient
from tests.support.pki import TestPki

PATIENCE: Final = patient(60.0)
"""Seconds after which an answer will not come any more."""


class GrpcioPeer:
    """A grpcio client that does what it is told. Every answer is the JSON object that the child printed."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        self._received = bytearray()

    async def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Have one operation done."""
        await self.tell(op, **arguments)
        return await self.answer()

    async def tell(self, op: str, **arguments: Any) -> None:
        """Begin an operation; :meth:`answer` waits for it."""
        await self._stdin.send_all(json.dumps({"op": op, **arguments}).encode() + b"\n")

    async def answer(self) -> dict[str, Any]:
        """The answer to the oldest operation that has not been answered."""
        with trio.fail_after(PATIENCE):
            while (end := self._received.find(b"\n")) < 0:
                data = await self._stdout.receive_some()
                assert data, "the grpcio client ended; its stderr says why"
                self._received += data
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def call(self, method: str, request: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        """A unary call; the outcome with its code."""
        return await self.ask("call", method=method, request=request or {}, **options)

    async def start(self, *argv: str) -> str:
        """Start a job; its id."""
        outcome = await self.call("Start", {"spec": {"argv": argv}})
        assert outcome["code"] == "OK", outcome
        return str(outcome["response"]["job"]["id"])

    async def begin(self, method: str, request: dict[str, Any], **options: Any) -> int:
        """Begin a call; its handle."""
        answer = await self.ask("begin", method=method, request=request, **options)
        return int(answer["handle"])

    async def aclose(self) -> None:
        """Let the child end."""
        await self._stdin.aclose()
        await self._stdout.aclose()

    async def stream(self, job: str, **fields: Any) -> dict[str, Any]:
        """A stream of output to its end, in short."""
        return await self.ask("stream", request={"job_id": job, **fields})


@asynccontextmanager
async def grpcio_peer(
    stubs: Path, pki: TestPki, server: str, who: str = "alice", *, ping: int = 0
) -> AsyncIterator[GrpcioPeer]:
    """A grpcio client of its own process, with one channel; ended with the block.

    Args:
        ping: milliseconds between two keepalive PINGs; 0 for none.
    """
    files = [str(path) for path in (pki.certificate(who), pki.key(who), pki.ca)]
    command = [
        sys.executable,
        "-m",
        "tests.interop.grpcio_client",
        str(stubs),
        server,
        *files,
        *([str(ping)] if ping else []),
    ]
    run = partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(run)
        peer = GrpcioPeer(process)
        try:
            yield peer
        finally:
            await peer.aclose()
