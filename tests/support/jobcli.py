"""The real ``jobcli`` as a program in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from tests.support.patience import patient
from tests.support.pki import TestPki

ROOT = Path(__file__).parents[2]
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
NO_JOB = "00000000-0000-4000-8000-000000000000"
OUR_FAILURE = 125
SECONDS = patient(30)
"""No jobcli here may run longer."""


@dataclass(frozen=True)
class Ended:
    """How a jobcli ended."""

    code: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def error(self) -> str:
        return self.err.decode()


@dataclass(frozen=True)
class Jobcli:
    """Runs jobcli with an environment of its own: nothing of the developer's is in it."""

    environment: Mapping[str, str]
    arguments: list[str] = field(default_factory=list)

    def but(self, **environment: str | None) -> Jobcli:
        """The same with other variables (None: without)."""
        changed = {**self.environment, **environment}
        return Jobcli({name: value for name, value in changed.items() if value is not None}, self.arguments)

    async def __call__(self, *arguments: str, stdin: bytes = b"") -> Ended:
        command = [sys.executable, "-m", "jobcli", *arguments]
        with trio.fail_after(SECONDS):
            done = await trio.run_process(
                command, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False, env=self.environment
            )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return Ended(done.returncode, done.stdout, done.stderr)

    async def ok(self, *arguments: str) -> str:
        """Run it, see that it succeeds without a word on stderr, and give what it printed."""
        ended = await self(*arguments)
        assert (ended.code, ended.error) == (0, "")
        return ended.text

    async def fails(self, *arguments: str) -> str:
        """Run it, see that it fails with 125, one sentence on stderr and nothing on stdout; give the sentence."""
        ended = await self(*arguments)
        assert (ended.code, ended.text) == (OUR_FAILURE, ""), ended.error
        assert re.fullmatch(r"jobcli: [^\n]+\n", ended.error)
        return ended.error.removeprefix("jobcli: ").rstrip("\n")

    @asynccontextmanager
    async def running(self, *arguments: str) -> AsyncIterator[trio.Process]:
        """A jobcli to talk to while it runs."""
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "jobcli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            with trio.fail_after(SECONDS):
                yield process
        finally:
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()
                await process.stdout.aclose()
                await process.stderr.aclose()


async def read_until(stream: trio.abc.ReceiveStream | None, mark: bytes) -> bytes:
    """Read until a text has come."""
    assert stream is not None
    received = bytearray()
    while mark not in received:
        data = await stream.receive_some()
        assert data, f"ended before {mark!r}: {bytes(received)!r}"
        received += data
    return bytes(received)


async def read_all(stream: trio.abc.ReceiveStream | None) -> bytes:
    """Read to the end."""
    assert stream is not None
    return b"".join([data async for data in stream])


async def last_words(process: trio.Process) -> tuple[int, bytes, str]:
    """The exit code, and what still came on stdout and stderr."""
    out, err = await read_all(process.stdout), await read_all(process.stderr)
    code = await process.wait()
    assert b"Traceback" not in err, err.decode()
    return code, out, err.decode()


def environment_for(pki: TestPki, home: Path, server: str, name: str = "alice") -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "LC_ALL": "C.UTF-8",
        "JOBCLI_SERVER": server,
        **{f"JOBCLI_{key.upper()}": str(path) for key, path in pki.credentials(name).items()},
    }
