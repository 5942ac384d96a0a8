"""Jobs whose processes are hard to find or to end, and what each test of them needs."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from api.client import JobClient
from api.messages import Job, Limits
from jobd.limits.detect import Choice, detect
from jobd.limits.processes import look
from tests.support.daemon import JobdProgram, jobd_program, state_of
from tests.support.jobs import processes_called, processes_with
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
BOMB: Final = """
import os, time
print("ready", flush=True)
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.01)
"""
"""Python that forks as fast as it can. Only for where :attr:`Limits.processes` is held."""
WITH_A_CHILD: Final = "sleep 1000 & echo ready; exec sleep 1000"
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
        "env -i setsid sh -c 'env -i setsid sh -c \"while :; do sleep 1; done\" $0 > /dev/null 2>&1 & exit' $MARK; "
        "echo ready; exec sleep 1000"
    ),
    "waits for a vfork": f"{PYTHON} '{VFORK}'",
    "deep": 'sh -c \'sh -c "sh -c \\"sleep 1000\\" & wait" & wait\' & echo ready; wait',
}
"""A name, and the script of a job that writes "ready" when it is so; what it needs of the disk it finds in $ROOM. One
that clears its environment has $MARK in its command line."""


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
    return await start_script(client, TREES[name], room, limits, mark)


async def start_script(client: JobClient, script: str, room: Path, limits: Limits | None = None, mark: str = "") -> Job:
    """Start a job that writes "ready" when it is as it is meant to be, and wait for that."""
    env = {"MARK": mark, "ROOM": str(room)}
    job = await client.start(["sh", "-c", script], env=env, limits=limits)
    async with client.stream(job.id) as output:
        assert (await anext(output)).data == b"ready\n"
    return job


def left_of(mark: str) -> set[int]:
    """The live processes of a tree that was given this mark: by their environment, or by their command line."""
    return {*processes_with(mark), *processes_called(mark)}


FREEZER: Final = Path("/sys/fs/cgroup/freezer")
"""Of control groups of version 1: what it has frozen does not die of SIGKILL before it is thawed. (What version 2 has
frozen does.)"""


@dataclass(frozen=True)
class Ice:
    """A control group whose processes no kill reaches."""

    directory: Path

    async def freeze(self, pid: int) -> None:
        """Put a process into state D, as ps shows it."""
        (self.directory / "cgroup.procs").write_text(str(pid))
        (self.directory / "freezer.state").write_text("FROZEN")
        while state_of(pid) != "D":
            await trio.sleep(0.01)

    def thaw(self) -> None:
        (self.directory / "freezer.state").write_text("THAWED")


@asynccontextmanager
async def ice() -> AsyncIterator[Ice]:
    """Thawed at the end, and gone when nobody is in it."""
    made = Ice(FREEZER / f"jobd-test-frozen-{os.getpid()}")
    made.directory.mkdir()
    try:
        yield made
    finally:
        made.thaw()
        with trio.CancelScope(shield=True):
            while (made.directory / "cgroup.procs").read_text():
                await trio.sleep(0.01)
        made.directory.rmdir()


def can_freeze() -> bool:
    """Processes can be put into state D here."""
    return os.geteuid() == 0 and os.access(FREEZER, os.W_OK)


def processes_of(job: Job) -> list[int]:
    """The live processes of a job, found as jobd itself does not need to where it has control groups."""
    return sorted(look().marked(job.id))
