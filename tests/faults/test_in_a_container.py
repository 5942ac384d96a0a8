"""jobd as the first process of a container: what holds its jobs there, and that a stop is a proof there too.

A container as the kernel knows it: namespaces of its own for processes, mounts and control groups (unshare(1)).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from api.client import JobClient
from api.messages import JobState
from tests.faults.trees import SECONDS, TREES, held_by, left_of, start_tree
from tests.support.accounts import needs_root
from tests.support.daemon import children_of, jobd_program
from tests.support.jobs import new_mark
from tests.support.pki import TestPki

ONLY_VERSION_2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
READ_ONLY = "for each in /sys/fs/cgroup /sys/fs/cgroup/*/; do mount -o remount,bind,ro $each; done 2>/dev/null; "


@contextmanager
def container(pki: TestPki, directory: Path, before: str) -> Iterator[str]:
    """A jobd that is the first process of one; gives its address.

    Args:
        before: what the shell does there first.
    """
    command = ("--mount", "--pid", "--cgroup", "--fork", "--mount-proc", "sh", "-c", f'{before}exec "$0" -m jobd "$@"')
    with jobd_program(pki, directory / "state", python="unshare", program=(*command, sys.executable)) as jobd:
        try:
            yield jobd.server
        finally:  # unshare(1) waits for the first process, and does not hand on signals
            [first] = children_of(jobd.process.pid)
            os.kill(first, signal.SIGTERM)
            jobd.process.wait(timeout=SECONDS)


def can_be() -> bool:
    """Such namespaces can be made here."""
    return subprocess.run(["unshare", "-m", "-p", "-C", "-f", "true"], check=False, capture_output=True).returncode == 0


@needs_root
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() == 0 and not can_be(), reason="needs namespaces of processes, mounts, control groups")
@pytest.mark.parametrize("before", ["", READ_ONLY], ids=["control groups", "control groups to read only"])
async def test_a_stop_leaves_nobody_in_a_container(pki: TestPki, tmp_path: Path, before: str) -> None:
    """With control groups, if they can be written there; else without, and that is said, with the reason."""
    if not before and ONLY_VERSION_2:
        pytest.skip("needs control groups of version 1 or both: of version 2 alone, a container has a mount of its own")
    with container(pki, tmp_path, before) as server, trio.fail_after(SECONDS):
        async with JobClient.connect(server, **pki.credentials("alice"), retry_for=SECONDS) as client:
            kind, limits = await held_by(client)
            [worker] = (await client.workers()).workers
            assert (kind == "none") is bool(before) is ("memory_bytes" not in limits)
            assert any("Read-only file system" in each for each in worker.weaknesses) is bool(before)
            marks = {name: new_mark() for name in ("double fork", "left all behind", "ignores SIGTERM")}
            for name, mark in marks.items():
                job = await start_tree(client, name, tmp_path, mark=mark)
                assert left_of(mark)
                stopped = await client.stop(job.id, grace=0.2)
                assert stopped.state == JobState.STOPPED, TREES[name]
                assert stopped.stop_receipt is not None
                assert stopped.stop_receipt.empty
                assert left_of(mark) == set()
