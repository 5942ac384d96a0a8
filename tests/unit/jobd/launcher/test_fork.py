"""A child is where it belongs before it executes anything, whichever way the kernel lets it be forked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobd.limits.detect import control_groups
from jobd.limits.groups import ControlGroups
from jobd.limits.hierarchies import hierarchies
from jobd.worker.containment import Limits

FORKING = """
import ctypes, json, os, select, signal, sys, threading
from jobd.launcher import children, fork
from jobd.launcher.program import Program

way, argv, enter = json.loads(sys.argv[1])
if way == "no clone3":
    fork._NUMBER = ctypes.c_long(-1)
elif way == "threads":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    fork._syscall = None  # it is not used
elif way == "a thread before":
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    fork._syscall = None
else:
    os.fork = None  # it is not used
signal.signal(signal.SIGHUP, lambda *_: None)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
child = children.spawn(Program(argv, dict(os.environ), "/", enter, {}, 0, 0o022, None))
select.select([child.report], [], [])
failure = child.hear()
print(failure.stage)
sys.stdout.write(open(child.out).read())
os.waitpid(child.pid, 0)
"""
"""A process of its own, since pytest's has threads. It prints the stage that failed, if one did, and what was said."""


@pytest.fixture(params=["clone3", "no clone3", "threads", "a thread before"])
def said_by(request: pytest.FixtureRequest) -> Callable[..., list[str]]:
    """Executes a program in a child. A kernel, or a filter of system calls, may not know clone3(2)."""

    def run(*argv: str, enter: list[str]) -> list[str]:
        task = json.dumps([request.param, argv, enter])
        command = [sys.executable, "-c", FORKING, task]
        done = subprocess.run(command, check=True, capture_output=True, text=True, restore_signals=False)
        return done.stdout.splitlines()

    return run


@pytest.fixture(params=[1, 2])
def groups(request: pytest.FixtureRequest) -> Iterator[ControlGroups]:
    """Control groups of each version, if this machine lets us make some."""
    present = hierarchies(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    found = control_groups(f"jobd-test-{os.getpid()}", [each for each in present if each.version == request.param])
    if found is None:
        pytest.skip(f"needs control groups of version {request.param} in which this user may make some")
    yield found
    found.close()


def test_a_child_is_in_its_groups_before_it_executes(groups: ControlGroups, said_by: Callable[..., list[str]]) -> None:
    """So that nothing that it forks is ever outside."""
    job_id = str(uuid.uuid4())
    container = groups.create(job_id, Limits())
    entrances = list(container.entrances)
    failed, *said = said_by("cat", "/proc/self/cgroup", enter=entrances)
    container.remove()
    assert not failed
    assert sum(line.endswith(job_id) for line in said) == len(entrances) > 0


def test_a_child_has_no_signal_handled_ignored_or_blocked(said_by: Callable[..., list[str]]) -> None:
    """What we do with them, and what whoever started us did, is nothing to a program."""
    failed, *said = said_by("cat", "/proc/self/status", enter=[])
    assert not failed
    masks = dict(line.split(":\t") for line in said)
    assert {name: int(masks[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt")} == dict.fromkeys(
        ("SigBlk", "SigIgn", "SigCgt"), 0
    )


def test_a_group_that_is_not_there_is_told(said_by: Callable[..., list[str]]) -> None:
    """Nothing is executed outside."""
    assert said_by("echo", "executed", enter=["/nowhere/jobd/x/cgroup.procs"]) == ["contain"]
