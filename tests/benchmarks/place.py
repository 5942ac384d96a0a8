"""Everything that the goals are measured with, running: jobd, and what it is held against."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.benchmarks import payload, servers
from tests.benchmarks.comparison import run_client
from tests.benchmarks.measurements import Plan
from tests.benchmarks.payload import MIB, Kept, digest, kept
from tests.benchmarks.references import ssh
from tests.interop.stubs import ROOT, generate
from tests.support.pki import TestPki

Figures = dict[str, float]


@dataclass(frozen=True)
class Place:
    """As the module says.

    Attributes:
        scratch: a directory for whatever else is wanted.
        came: room for all bytes of a stream.
        digest: their hash.
        jobcli: the command line up to the verb.
        ssh: its client's command line; empty where there is none.
    """

    plan: Plan
    pki: TestPki
    stubs: Path
    scratch: Path
    came: Kept
    digest: bytes
    jobd: servers.Serving
    runner: servers.Serving
    purerpc: servers.Serving
    loop: servers.Serving
    bare: servers.Serving
    canned: servers.Serving
    framed: servers.Serving
    jobcli: list[str]
    ssh: list[str]

    def clear(self) -> None:
        """Delete all that was recorded, so that whoever records next finds the memory that this had, as the blocking
        loop does, which writes over its file. Memory that was not used lately may have to be fetched from a hypervisor,
        page by page: that is 2 ms a MiB where it is so, and more than all the rest.
        """
        asked = partial(subprocess.run, cwd=ROOT, env=self.environment, check=True, capture_output=True, text=True)
        listed = asked([*self.jobcli, "list", "--json", "--limit", "1000"]).stdout
        ended = [job["id"] for job in map(json.loads, listed.splitlines()) if job["output_bytes"]]
        if ended:
            asked([*self.jobcli, "delete", *ended])
        for path in (*(self.scratch / "bare").iterdir(), *(self.scratch / "framed").iterdir()):
            if path.stat().st_size >= MIB and path.suffix not in (".sqlite3", ".sqlite3-wal"):
                path.unlink()

    @property
    def size(self) -> int:
        """Bytes of a stream."""
        return self.plan.mebibytes * MIB

    @property
    def files(self) -> list[Path]:
        """A client's certificate, key and CA."""
        return list(self.pki.credentials("alice").values())

    @property
    def environment(self) -> dict[str, str]:
        """For jobcli, and other programs of this project."""
        files = {f"JOBCLI_{name.upper()}": str(path) for name, path in self.pki.credentials("alice").items()}
        return {**os.environ, **files, "JOBCLI_SERVER": self.jobd.address, "PYTHONPATH": str(ROOT)}

    def client(self, peer: str, server: servers.Serving, measurement: str) -> Figures:
        """What a client process measured."""
        plan = json.dumps(dataclasses.asdict(self.plan))
        files = map(str, self.files)
        return run_client(measurement, [peer, measurement, plan, str(self.stubs), server.address, *files])

    def bare_client(self, what: str) -> list[str]:
        """The command line of the bare program's client."""
        program = [sys.executable, "-m", "tests.benchmarks.references.bare", what]
        return [*program, self.bare.address, *map(str, self.files)]

    def framed_client(self) -> list[str]:
        """The command line of the client of the program that only frames."""
        program = [sys.executable, "-m", "tests.benchmarks.references.framed_client", str(self.stubs)]
        return [*program, self.framed.address, *map(str, self.files)]


@contextmanager
def place_of(plan: Plan, scratch: Path) -> Iterator[Place]:
    """The block has the place."""
    pki, stubs = TestPki.make(scratch / "pki"), generate(scratch / "stubs")
    (scratch / "loop").mkdir()
    written = payload.make(scratch / "payload", plan.mebibytes)
    plan = dataclasses.replace(plan, payload=str(written))
    size = plan.mebibytes * MIB
    with (
        kept(size) as came,
        servers.jobd(pki, stubs, scratch) as jobd,
        servers.reference(pki, stubs, scratch) as runner,
        servers.purerpc(pki, stubs, scratch) as purerpc,
        servers.blocking(pki, scratch / "loop") as loop,
        servers.bare(pki, scratch / "bare") as bare,
        servers.canned(pki, stubs, scratch / "canned.log", written) as canned,
        servers.framed(pki, stubs, scratch / "framed") as framed,
    ):
        all_ = (jobd, runner, purerpc, loop, bare, canned, framed)
        jobcli = [sys.executable, "-m", "jobcli"]
        place = Place(plan, pki, stubs, scratch, came, digest(written, size), *all_, jobcli, [])
        if why := ssh.why_not():
            print(f"without ssh: {why}\n")
            yield place
        else:
            with ssh.serving(scratch / "ssh") as command:
                yield dataclasses.replace(place, ssh=command)
