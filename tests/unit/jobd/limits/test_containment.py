"""Whatever holds a job's processes finds all of them, ends all of them, and says so truly.

The same rules for each kind: control groups with a tree of version 2, with one of version 1, and none.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from jobd.launcher.procfs import group_has_members
from jobd.limits.groups import ControlGroup
from jobd.limits.processes import send_directly, stat_of
from jobd.worker.containment import Containment, Limits
from tests.support.containers import SECONDS, until
from tests.support.jobs import processes_with

TREES = {
    "one process": "echo ready; exec sleep 1000",
    "children": "sleep 1000 & sleep 1000 & echo ready; wait",
    "deaf to SIGTERM": "trap '' TERM; echo ready; while :; do sleep 1000; done",
    "a double fork in a session of its own": "setsid sh -c 'setsid sleep 1000 & exit' ; echo ready; exec sleep 1000",
    "an orphan only": "setsid setsid sh -c 'echo ready; exec sleep 1000 > /dev/null' &",
    "stopped": "sleep 1000 & kill -STOP $!; echo ready; wait",
    "without descriptors": f"exec {sys.executable} -c \"import os,time; print('ready',flush=True); "
    'os.closerange(0,100); time.sleep(1000)"',
}


@pytest.mark.parametrize("tree", TREES)
def test_a_kill_leaves_nobody(
    containment: Containment, run: Callable[[str], tuple[subprocess.Popen[bytes], str]], tree: str
) -> None:
    """Whatever the tree: found before, and gone after; the container says so, and /proc agrees."""
    process, job_id = run(TREES[tree])
    if "orphan" in tree:
        process.wait()
    container = containment.find(job_id, process.pid)
    members = container.members()
    assert members
    assert not container.is_empty()
    if "double fork" in tree or "orphan" in tree:
        assert any(member.left_session for member in members)
    container.kill()
    process.wait()
    until(container.is_empty)
    assert processes_with(f"JOBD_JOB_ID={job_id}") == []
    assert container.members() == []
    container.remove()


def test_a_signal_comes_to_the_job_itself_before_its_children(
    containment: Containment, run: Callable[[str], tuple[subprocess.Popen[bytes], str]]
) -> None:
    """Else a shell could see its child end, and exit with a code that tells of the child, before the signal is there
    for the shell itself."""
    process, job_id = run("for child in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; echo ready; wait")
    sent: list[int] = []
    containment.send = lambda _, targets, __: sent.extend(pid for pid, _ in targets)
    containment.find(job_id, process.pid).signal(signal.SIGUSR1)
    assert (sent[0], len(sent)) == (process.pid, 10)


def test_members_are_told_with_name_and_parent(
    containment: Containment, run: Callable[[str], tuple[subprocess.Popen[bytes], str]]
) -> None:
    """As the kernel has them."""
    process, job_id = run("sleep 1000 & echo ready; wait")
    container = containment.find(job_id, process.pid)
    until(lambda: {member.command for member in container.members()} == {"sh", "sleep"})
    members = {member.command: member for member in container.members()}
    assert members["sh"].pid == process.pid
    assert members["sleep"].parent == process.pid
    assert not members["sleep"].left_session
    assert container.usage().processes in (2, None if containment.name == "none" else 2)


def test_a_signal_reaches_each(
    containment: Containment, run: Callable[[str], tuple[subprocess.Popen[bytes], str]]
) -> None:
    """Those that left the session too."""
    process, job_id = run("setsid sleep 1000 & sleep 1000 & echo ready; wait")
    container = containment.find(job_id, process.pid)
    until(lambda: len(container.members()) == 3)
    container.signal(signal.SIGTERM)
    process.wait()
    until(container.is_empty)


def test_a_fork_bomb_ends(containment: Containment, run: Callable[[str], tuple[subprocess.Popen[bytes], str]]) -> None:
    """With a limit of processes, as bombs are to have; without control groups, a small one that forks on."""
    bomb = "for i in 1 2 3 4 5; do (while :; do (sleep 0.01 &) ; sleep 0.005; done) & done; echo ready; wait"
    process, job_id = run(bomb)
    container = containment.find(job_id, process.pid)
    end = time.monotonic() + SECONDS
    while not container.is_empty():
        assert time.monotonic() < end
        container.kill()
    process.wait()
    assert processes_with(f"JOBD_JOB_ID={job_id}") == []


def test_nothing_is_left_of_what_was_removed(containment: Containment) -> None:
    """Groups that the job made in its own included; and a sweep removes what a crash left."""
    containers = [containment.create(str(uuid.uuid4()), Limits()) for _ in range(3)]
    entrances = containers[0].entrances
    for entrance in entrances:
        (Path(entrance).parent / "own" / "deeper").mkdir(parents=True)
    assert containers[0].remove_at_once() is not bool(entrances)
    containers[0].remove()
    assert containers[0].remove_at_once()
    left = containment.sweep(frozenset())
    assert left == (2 if entrances else 0)
    for container in containers:
        assert not any(Path(entrance).exists() for entrance in container.entrances)


def test_an_end_removes_what_is_empty_and_nothing_else(
    containment: Containment, run: Callable[[str], tuple[subprocess.Popen[bytes], str]]
) -> None:
    """Jobs that go on stay where they are."""
    process, job_id = run("echo ready; exec sleep 1000")
    empty = containment.create(str(uuid.uuid4()), Limits())
    entrances = list(empty.entrances)
    containment.close()
    assert not any(Path(entrance).exists() for entrance in entrances)
    container = containment.find(job_id, process.pid)
    assert [member.pid for member in container.members()] == [process.pid]
    container.kill()
    process.wait()
    until(container.is_empty)
    containment.close()
    assert not any(Path(entrance).parents[1].exists() for entrance in entrances)


def test_a_command_can_have_any_name(tmp_path: Path) -> None:
    """Parentheses and spaces in it do not move the fields."""
    program = tmp_path / ") S 1 (x"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "1000"]) as process:
        try:
            until(lambda: (stat := stat_of(process.pid)) is not None and stat.command != "python")
            stat = stat_of(process.pid)
            assert stat is not None
            assert stat.parent == os.getpid()
        finally:
            process.kill()


def test_who_has_the_number_of_a_first_process_that_was_reaped_is_a_stranger(containment: Containment) -> None:
    """Numbers come again, after days or after 32,768 processes; a launcher may remember an end for as long."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as stranger:
        try:
            while_it_lives, container = [containment.find(str(uuid.uuid4()), stranger.pid) for _ in range(2)]
            for each in (while_it_lives, container):
                each.began_with(stranger.pid)
            assert [member.pid for member in while_it_lives.members()] == [stranger.pid]
            container.first_ended()
            assert container.members() == []
            container.kill()
            assert stranger.poll() is None
            assert not group_has_members(stranger.pid)
        finally:
            stranger.kill()


def test_who_is_left_of_a_session_is_the_job_s_though_its_first_process_was_reaped(containment: Containment) -> None:
    """Nobody else gets the number as long as they are there."""
    command = ["sh", "-c", "sleep 1000 & echo $!"]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE) as first:
        assert first.stdout
        left = int(first.stdout.readline())
        first.wait()
        container = containment.find(str(uuid.uuid4()), first.pid)
        container.began_with(first.pid)
        container.first_ended()
        assert [member.pid for member in container.members()] == [left]
        assert group_has_members(first.pid)
        container.kill()


def test_a_process_that_cannot_be_seen_is_not_taken_for_our_own_group(tmp_path: Path) -> None:
    """A group can hold processes of another pid namespace; cgroup.procs has 0 for them, and kill(2) means us by it."""
    (tmp_path / "cgroup.procs").write_text("0\n")
    heard: list[int] = []
    before = signal.signal(signal.SIGURG, lambda signum, _: heard.append(signum))
    try:
        ControlGroup([str(tmp_path)], {}, 0).signal(signal.SIGURG)
    finally:
        signal.signal(signal.SIGURG, before)
    assert heard == []


def test_who_has_the_number_of_one_that_has_gone_is_sent_nothing() -> None:
    """A look may be older than the signal; number and start together are one process for ever."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        there = stat_of(process.pid)
        assert there is not None
        send_directly("a", [(process.pid, there.started - 1)], signal.SIGKILL)
        send_directly("a", [(process.pid, there.started)], signal.SIGTERM)
        assert process.wait(SECONDS) == -signal.SIGTERM
