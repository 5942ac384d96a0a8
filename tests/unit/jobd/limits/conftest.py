"""One of each kind of containment, and processes in it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator

import pytest

from jobd.limits.detect import control_groups
from jobd.limits.walk import Walk
from jobd.worker.containment import Containment, Limits
from tests.support.containers import DAEMON, present, remove_all, until
from tests.support.jobs import processes_with


@pytest.fixture(params=["v2", "v1", "none"])
def containment(request: pytest.FixtureRequest) -> Iterator[Containment]:
    """One of each kind, if this machine lets us."""
    if request.param == "none":
        yield Walk()
        return
    wanted = 2 if request.param == "v2" else 1
    found = control_groups(DAEMON, [each for each in present() if each.version == wanted])
    if found is None:
        pytest.skip(f"needs control groups of version {wanted} in which this user may make some: root, or delegation")
    try:
        yield found
    finally:
        until(lambda: found.sweep(frozenset()) == 0)  # whoever was killed may take a while to end
        remove_all(DAEMON)


@pytest.fixture
def run(containment: Containment) -> Iterator[Callable[[str], tuple[subprocess.Popen[bytes], str]]]:
    """Start a script in a container; gives its process and the job id. It says something when it is where it wants."""
    started: list[tuple[subprocess.Popen[bytes], str]] = []

    def start(script: str) -> tuple[subprocess.Popen[bytes], str]:
        job_id = str(uuid.uuid4())
        container = containment.create(job_id, Limits())
        entrances = "; ".join(f"echo 0 > {entrance}" for entrance in container.entrances) or ":"
        process = subprocess.Popen(
            ["sh", "-c", f'{entrances}; exec sh -c "$0"', script],
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "JOBD_JOB_ID": job_id},
        )
        started.append((process, job_id))
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process, job_id

    yield start
    for process, job_id in started:
        with process:
            for pid in processes_with(f"JOBD_JOB_ID={job_id}"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
