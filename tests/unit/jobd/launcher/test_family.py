"""Who descends from a launcher, and signals that reach nobody else."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys

import pytest

from jobd.launcher import family
from jobd.worker.containment import MARK_LIMIT, mark_of
from tests.support.daemon import ROOT

PROGRAM = """
import os, signal, subprocess, sys
from jobd.launcher import family
from jobd.launcher.orphans import adopt_orphans

adopt_orphans()
with subprocess.Popen(["sh", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE) as parent:
    child = int(parent.stdout.readline())
    look = family._ancestry

    def then_the_parent_ends(pid, but):
        found = look(pid, but)
        if parent.poll() is None:
            parent.kill()
            parent.wait()
        return found

    family._ancestry = then_the_parent_ends
    but = parent.pid if "but" in sys.argv else None
    strangers = family.signal_descendants([(child, family.started(child))], signal.SIGTERM, but=but)
    parent.stdout.close()
    if strangers:
        os.kill(child, signal.SIGKILL)
    print([pid for pid, _ in strangers] == [child], os.WTERMSIG(os.waitpid(child, 0)[1]))
"""
"""Has a child's parent end between two looks at whom the child descends from."""


@pytest.mark.parametrize(("spared", "said"), [(False, "False 15\n"), (True, "True 9\n")])
def test_whose_parent_ends_meanwhile_is_no_stranger(spared: bool, said: str) -> None:
    """The first signal of a stop goes to parents and then to children: it reaches those whose parent it has just ended.
    Whoever was of the one that is not meant is not taken for ours by that alone."""
    arguments = [sys.executable, "-c", PROGRAM, *(["but"] if spared else [])]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == said


def test_a_mark_is_as_good_as_a_descent_and_no_other_is() -> None:
    """For what has outlived its launcher; and whoever has the number of one that has ended is sent nothing."""
    mark = mark_of("a job")
    with subprocess.Popen(["sleep", "1000"]) as ours, subprocess.Popen(["sleep", "1000"]) as other:
        found = marked, stranger = [(each.pid, family.started(each.pid) or 0) for each in (ours, other)]
        resource.prlimit(ours.pid, MARK_LIMIT, (mark, mark))
        assert family.signal_marked([(ours.pid, marked[1] - 1)], signal.SIGKILL, mark) == []
        assert family.signal_marked(found, signal.SIGKILL, mark - 1) == found
        assert family.signal_marked(found, signal.SIGTERM, mark) == [stranger]
        assert ours.wait() == -signal.SIGTERM
        assert other.poll() is None
        other.kill()


def test_a_mark_of_the_launcher_itself_is_no_job_of_its(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a job of another jobd, it has that one's mark, and so have its front and what else is in that job: a server
    without privileges is not to reach those."""
    with subprocess.Popen(["sleep", "1000"]) as other:
        mark = mark_of("a job of another jobd")
        found = [(other.pid, family.started(other.pid) or 0)]
        monkeypatch.setattr(family, "_mark_of", lambda pid: mark)
        assert family.signal_marked(found, signal.SIGKILL, mark) == found
        assert other.poll() is None
        other.kill()


def test_who_is_above_a_process_is_found_however_far_up() -> None:
    """And nobody else is."""
    with subprocess.Popen(["sh", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE) as shell:
        assert shell.stdout
        child = int(shell.stdout.readline())
        assert family.is_above(shell.pid, child)
        assert family.is_above(os.getpid(), child)
        assert not family.is_above(child, child)
        assert not family.is_above(child, shell.pid)
        os.kill(child, signal.SIGKILL)
        shell.wait()
        assert not family.is_above(os.getpid(), child)
