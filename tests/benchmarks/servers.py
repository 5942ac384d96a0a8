"""The servers that are measured, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.interop.stubs import ROOT
from tests.support.pki import TestPki


@contextmanager
def jobd(pki: TestPki, stubs: Path, scratch: Path) -> Iterator[str]:
    """The daemon as it is delivered, with a new state directory on disk; gives its address."""
    flags = [text for name, path in pki.server().items() for text in (f"--{name}", str(path))]
    command = ["jobd", "--listen", "127.0.0.1:0", "--state", str(scratch / "state"), *flags]
    with _serving(command, scratch / "jobd.log") as address:
        yield address


@contextmanager
def undurable(mode: str, pki: TestPki, scratch: Path) -> Iterator[str]:
    """The daemon in a mode of ``undurable``, with a new state directory on disk; gives its address."""
    scratch.mkdir()
    flags = [text for name, path in pki.server().items() for text in (f"--{name}", str(path))]
    state = ["--listen", "127.0.0.1:0", "--stop-jobs", "--state", str(scratch / "state")]
    with _serving(["tests.benchmarks.undurable", mode, *state, *flags], scratch / "jobd.log") as address:
        yield address


@contextmanager
def reference(pki: TestPki, stubs: Path, scratch: Path) -> Iterator[str]:
    """``grpc_aio_runner``; gives its address."""
    files = [str(path) for path in pki.server().values()]
    command = ["tests.benchmarks.grpc_aio_runner", str(stubs), *files]
    with _serving(command, scratch / "reference.log") as address:
        yield address


@contextmanager
def _serving(command: list[str], log: Path) -> Iterator[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (
        log.open("wb") as errors,  # a file: nobody reads a pipe meanwhile
        subprocess.Popen(
            [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process,
    ):
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            if "listening on" not in ready:
                raise RuntimeError(f"{command[0]} did not start: {ready}{log.read_text()}")
            yield ready.rsplit(maxsplit=1)[-1].replace("127.0.0.1", "localhost")
        finally:
            process.terminate()
            process.wait(20)
