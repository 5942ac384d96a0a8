"""Jobs that are kept from the machine, with a real jobd.

The sandboxes are bubblewrap's, where this machine lets it make them; else those tests are skipped by name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from api.client import JobClient
from api.messages import Isolation, Job, JobState, OutputSource, Verdict
from jobd.limits.isolation import detect_isolation
from tests.support.daemon import JobdProgram, jobd_program
from tests.support.patience import patient
from tests.support.pki import TestPki

SECONDS = patient(60)
MEANS = detect_isolation(allow_new_privileges=False)
WHOLE = Isolation(private_tmp=True, read_only_root=True, no_network=True, pid_namespace=True)
ALL_FLAGS = ("private_tmp", "read_only_root", "no_network", "pid_namespace")
needs_sandbox = pytest.mark.skipif(
    not set(ALL_FLAGS) <= set(MEANS.available), reason="needs bubblewrap (bwrap), and to be let make sandboxes with it"
)


@asynccontextmanager
async def running(
    pki: TestPki, directory: Path, *flags: str, kind: str = "auto"
) -> AsyncIterator[tuple[JobdProgram, JobClient]]:
    """A jobd, and a writer."""
    with jobd_program(pki, directory / "state", "--containment", kind, *flags) as jobd, trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS) as client:
            yield jobd, client


async def outcome(client: JobClient, job: Job, source: int = OutputSource.UNSPECIFIED) -> tuple[str, Verdict]:
    """What a job wrote, and how it ended."""
    assert job.state != JobState.START_FAILED, job.message
    async with client.stream(job.id, source=OutputSource(source)) as output:
        text = b"".join([chunk.data async for chunk in output]).decode()
    assert output.verdict is not None
    return text, output.verdict


async def told(client: JobClient, script: str, isolation: Isolation | None = None, **fields: object) -> str:
    """What a script writes on its stdout."""
    job = await client.start(["sh", "-c", script], isolation=isolation, **fields)  # type: ignore[arg-type] # JobClient.start's
    return (await outcome(client, job, OutputSource.STDOUT))[0]
