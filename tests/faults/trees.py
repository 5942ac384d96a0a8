"""Jobs whose processes are hard to find or to end, and what each test of them needs."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from api.client import JobClient
from api.messages import Job, Limits
from jobd.limits.detect import Choice, detect
from jobd.limits.processes import look
from tests.support.daemon import JobdProgram, jobd_program
from tests.support.patience import patient
from tests.support.pki import TestPki

SECONDS: Final = patient(60)
VFORK: Final = (
    'import os; fifo = os.environ["ROOM"] + f"/fifo-{os.getpid()}"; os.mkfifo(fifo); print("ready", flush=True); '
    'os.posix_spawn("/bin/true", ["true"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 5, fifo, os.O_RDONLY, 0)])'
)
"""The child waits for somebody who writes, and the parent, in state D, for the child to execute its program."""
PYTHON: Final = f"exec {sys.executable} -c"
KINDS: Final = ("auto", "cgroup-v1", "cgroup-v2", "none")
"""As the machine has it, one version of control groups alone, and none."""
PROOFS: Final = {"cgroup-v1": "cgroup.procs", "cgroup-v2": "cgroup.events", "none": "/proc"}
"""How each of them proves that nobody is left."""
TREES: Final = {
    "ignores SIGTERM": "trap '' TERM; echo ready; while :; do sleep 0.1; done",
    "double fork": "setsid sh -c 'setsid sleep 1000 & exit'; echo ready; exec sleep 1000",
    "forks all the time": "for i in 1 2 3; do (while :; do (sleep 0.01 &); sleep 0.005; done) & done; echo ready; wait",
    "stopped": "sleep 1000 & kill -STOP $!; echo ready; kill -STOP $$",
    "closed its descriptors": (
        f"{PYTHON} \"import os, time; print('ready', flush=True); os.closerange(0, 99); time.sleep(1000)\""
    ),
    "left its group": (
        "for g in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do echo 0 > $g; done 2>/dev/null; "
        "setsid sleep 1000 & echo ready; exec sleep 1000"
    ),
    "left all behind": (
        "for g in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do echo 0 > $g; done 2>/dev/null; "
        "env -i setsid sh -c 'env -i setsid sleep 1000 > /dev/null 2>&1 & exit'; echo ready; exec sleep 1000"
    ),
    "waits for a vfork": f"{PYTHON} '{VFORK}'",
    "deep": 'sh -c \'sh -c "sh -c \\"sleep 1000\\" & wait" & wait\' & echo ready; wait',
}
"""A name, and the script of a job that writes "ready" when it is so; what it needs of the disk it finds in $ROOM."""


@asynccontextmanager
async def running(
    pki: TestPki, directory: Path, kind: str, *flags: str
) -> AsyncIterator[tuple[JobdProgram, JobClient]]:
    """A jobd with this kind of containment, and a writer."""
    arguments = ("--containment", kind, "--slots", "200", *flags)
    with jobd_program(pki, directory / "state", *arguments) as jobd, trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS) as client:
            yield jobd, client


def can_be(kind: str) -> bool:
    """Jobs can be held together so here."""
    try:
        detect(f"jobd-test-{os.getpid()}", Choice(kind)).close()
    except OSError:
        return False
    return True


async def held_by(client: JobClient) -> tuple[str, set[str]]:
    """What holds the jobs, and the limits that it can hold."""
    [worker] = (await client.workers()).workers
    return worker.containment, set(worker.limits)


async def start_tree(client: JobClient, name: str, room: Path, limits: Limits | None = None, mark: str = "") -> Job:
    """Start one of the trees, and wait until it is as it is meant to be."""
    env = {"MARK": mark, "ROOM": str(room)}
    job = await client.start(["sh", "-c", TREES[name]], name=name, env=env, limits=limits)
    async with client.stream(job.id) as output:
        assert (await anext(output)).data == b"ready\n"
    return job


def processes_of(job: Job) -> list[int]:
    """The live processes of a job, found as jobd itself does not need to where it has control groups."""
    return sorted(look().marked(job.id))
