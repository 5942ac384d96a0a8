"""The servers that are measured, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jobd.rules import QUOTAS
from tests.interop.stubs import ROOT
from tests.support.pki import TestPki

TICKS: Final = os.sysconf("SC_CLK_TCK")
ENDING: Final = 120.0
"""Seconds, at most, for a daemon with a thousand jobs to end."""


@dataclass(frozen=True)
class Serving:
    """A server that runs.

    Attributes:
        address: for clients.
        pid: of the process that was started; jobd's other processes are below it.
    """

    address: str
    pid: int

    def processor_time(self) -> float:
        """Seconds, user and system, of all its own processes; those of jobs are not counted."""
        return sum(_processor_time(pid) for pid in [self.pid, *_programs_below(self.pid)])

    def descriptors(self) -> int:
        """How many all of them have; each follower of a job on disk has two."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in [self.pid, *_programs_below(self.pid)])  # noqa: PTH208 # a number is wanted

    def memory(self) -> float:
        """MiB, of all its own processes; what they share is counted once."""
        return sum(memory_of(pid)["PSS"] for pid in [self.pid, *_programs_below(self.pid)]) / 1024


def memory_of(pid: int) -> dict[str, int]:
    """KiB of a process: what is mapped, its fair share of it, and what is its own alone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except PermissionError:  # jobd shows that to root alone; to others, at least what its share cannot be more than
        lines = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.endswith(" kB")]
    values = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    if "Rss" not in values:
        return {"RSS": values["VmRSS"], "PSS": values["VmRSS"], "private": values["RssAnon"]}
    return {"RSS": values["Rss"], "PSS": values["Pss"], "private": values["Private_Clean"] + values["Private_Dirty"]}


def _programs_below(pid: int) -> list[int]:
    found = []
    children = "".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))  # of each thread
    for child in map(int, children.split()):
        words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        if any(word.startswith((b"jobd", b"tests.benchmarks.")) for word in words):
            found += [child, *_programs_below(child)]
    return found


def _processor_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def jobd(pki: TestPki, stubs: Path, scratch: Path, *more: str) -> Iterator[Serving]:
    """The daemon as it is delivered (with more flags), with a new state directory on disk."""
    flags = [text for name, path in pki.server().items() for text in (f"--{name}", str(path))]
    config = scratch / "jobd.toml"
    # What is measured is how much there can be.
    config.write_text("[quota]\n" + "".join(f"{key} = 'unlimited'\n" for key in QUOTAS))
    settings = ["--config", str(config), "--stop-jobs", "--state", str(scratch / "state")]
    with _serving(["jobd", "--listen", "127.0.0.1:0", *settings, *flags, *more], scratch / "jobd.log") as server:
        yield server


@contextmanager
def undurable(mode: str, pki: TestPki, scratch: Path) -> Iterator[Serving]:
    """The daemon in a mode of ``undurable``, with a new state directory on disk."""
    scratch.mkdir()
    flags = [text for name, path in pki.server().items() for text in (f"--{name}", str(path))]
    state = ["--listen", "127.0.0.1:0", "--stop-jobs", "--state", str(scratch / "state")]
    with _serving(["tests.benchmarks.undurable", mode, *state, *flags], scratch / "jobd.log") as server:
        yield server


@contextmanager
def reference(pki: TestPki, stubs: Path, scratch: Path) -> Iterator[Serving]:
    """``grpc_aio_runner``."""
    with _serving(_reference("grpc_aio_runner", pki, stubs), scratch / "reference.log") as server:
        yield server


@contextmanager
def purerpc(pki: TestPki, stubs: Path, scratch: Path) -> Iterator[Serving]:
    """``purerpc_server``."""
    with _serving(_reference("purerpc_server", pki, stubs), scratch / "purerpc.log") as server:
        yield server


@contextmanager
def blocking(pki: TestPki, scratch: Path) -> Iterator[Serving]:
    """``blocking``."""
    command = ["tests.benchmarks.references.blocking", "serve", *_files(pki), str(scratch / "record")]
    with _serving(command, scratch / "blocking.log") as server:
        yield server


@contextmanager
def bare(pki: TestPki, scratch: Path) -> Iterator[Serving]:
    """``bare``."""
    command = ["tests.benchmarks.references.bare", "serve", *_files(pki), str(scratch)]
    with _serving(command, scratch.with_suffix(".log")) as server:
        yield server


@contextmanager
def canned(pki: TestPki, stubs: Path, log: Path, payload: Path) -> Iterator[Serving]:
    """``canned``."""
    with _serving([*_reference("canned", pki, stubs), str(payload)], log) as server:
        yield server


@contextmanager
def framed(pki: TestPki, stubs: Path, scratch: Path) -> Iterator[Serving]:
    """``framed``."""
    with _serving([*_reference("framed", pki, stubs), str(scratch)], scratch.with_suffix(".log")) as server:
        yield server


def _reference(name: str, pki: TestPki, stubs: Path) -> list[str]:
    return [f"tests.benchmarks.references.{name}", str(stubs), *_files(pki)]


def _files(pki: TestPki) -> list[str]:
    return [str(path) for path in pki.server().values()]


@contextmanager
def _serving(command: list[str], log: Path) -> Iterator[Serving]:
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
            yield Serving(ready.rsplit(maxsplit=1)[-1].replace("127.0.0.1", "localhost"), process.pid)
        finally:
            process.terminate()
            process.wait(ENDING)
