"""Daemons for tests: in this process (fast), or as the real program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from jobd.config import Config
from jobd.daemon import Daemon, run
from tests.support.pki import TestPki

FAST = {"grace": 2.0, "drain": 1.0, "shutdown": 0.2}


def config_for(pki: TestPki, state: Path, **settings: Any) -> Config:
    """Settings for a daemon on a free loopback port, with short waits."""
    return Config(**pki.server(), state=state, **{"listen": "127.0.0.1:0", **FAST, **settings})


@asynccontextmanager
async def running_daemon(pki: TestPki, state: Path, **settings: Any) -> AsyncIterator[str]:
    """A daemon in this process; gives ``localhost:PORT``. At the end of the block it is shut down, jobs and all."""
    async with trio.open_nursery() as nursery:
        daemon: Daemon = await nursery.start(partial(run, config_for(pki, state, **settings)))
        try:
            yield daemon.address.replace("127.0.0.1", "localhost")
        finally:
            nursery.cancel_scope.cancel()


@dataclass(frozen=True)
class JobdProgram:
    """A ``jobd`` of its own process."""

    process: subprocess.Popen[str]
    server: str


@contextmanager
def jobd_program(pki: TestPki, state: Path, *flags: str) -> Iterator[JobdProgram]:
    """The real program, ended with SIGTERM at the end of the block (if it still runs)."""
    arguments = ["--listen", "127.0.0.1:0", "--state", str(state), "--grace", "2", "--drain", "1", "--shutdown", "0.2"]
    arguments += [text for name, path in pki.server().items() for text in (f"--{name}", str(path))]
    with subprocess.Popen(
        [sys.executable, "-m", "jobd", *arguments, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            assert ready.startswith("jobd is listening on "), ready + process.communicate()[1]
            yield JobdProgram(process, ready.rsplit(maxsplit=1)[-1].replace("127.0.0.1", "localhost"))
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)
