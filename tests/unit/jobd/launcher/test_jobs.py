"""The launcher's jobs, with real processes and no server."""

from __future__ import annotations

import errno
import os
import resource
import selectors
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from jobd.launcher import protocol
from jobd.launcher.jobs import Jobs
from tests.support.accounts import needs_root
from tests.support.daemon import ROOT

NOFILE = resource.getrlimit(resource.RLIMIT_NOFILE)
PROGRAM = {
    "env": {"PATH": os.defpath},
    "cwd": "/",
    "enter": [],
    "limits": [],
    "nice": 0,
    "umask": 0o022,
    "identity": None,
    "stdin": "none",
    "size": [0, 0],
}


class Launched:
    """Some jobs, and what a server would hear of them."""

    def __init__(self, nofile: tuple[int, int] = NOFILE) -> None:
        self.heard: list[tuple[dict[str, Any], list[int]]] = []
        self.selector = selectors.DefaultSelector()
        self.jobs = Jobs(self.selector, lambda message, fds: self.heard.append((message, fds)), nofile)

    def launch(self, id: str, *argv: str, **program: Any) -> tuple[dict[str, Any], list[int]]:
        """Launch a job; what is told of it."""
        self.jobs.launch(id, protocol.as_memfd({**PROGRAM, "argv": argv, **program}))
        while not self.heard:
            for key, _ in self.selector.select():
                key.data()
        return self.heard.pop()

    def reap(self) -> int:
        """Wait for the next end; its status."""
        pid, status = os.waitpid(-1, 0)
        self.jobs.reaped(pid, status)
        message, _ = self.heard.pop()
        assert message["status"] == status
        return status


@pytest.fixture
def launched() -> Iterator[Launched]:
    made = Launched()
    yield made
    for _, fds in made.heard:
        protocol.close_all(fds)
    made.selector.close()


def test_a_job_whose_descriptors_did_not_arrive_is_told_to_have_failed(launched: Launched) -> None:
    """The kernel cuts off those for which this process has no number left; the job is not run with something else."""
    launched.jobs.launch("a")
    assert launched.heard.pop()[0] == {"op": "failed", "id": "a", "stage": "fork", "errno": errno.EMFILE}
    failed, _ = launched.launch("b", "cat", stdin="data")
    assert failed == {"op": "failed", "id": "b", "stage": "fork", "errno": errno.EMFILE}


@pytest.mark.parametrize(
    ("asked", "had"), [([], "100 300\n"), ([[resource.RLIMIT_NOFILE, 200]], "200 200\n")], ids=["nothing", "200"]
)
def test_a_limit_that_is_asked_for_is_what_there_is(asked: list[list[int]], had: str) -> None:
    """The soft one too; what the launcher was started with is for whom nothing is said."""
    launched = Launched(nofile=(100, 300))
    _, fds = launched.launch("a", "sh", "-c", "echo $(ulimit -Sn) $(ulimit -Hn)", limits=asked)
    launched.reap()
    assert os.read(fds[0], 100).decode() == had
    launched.jobs.release("a")
    protocol.close_all(fds)
    launched.selector.close()


def test_the_end_of_stdin_comes_when_both_have_let_go(launched: Launched) -> None:
    """A server that is killed is not the end; one that asks for it, and has closed its own, is."""
    message, (out, err, pidfd, near) = launched.launch("a", "cat", stdin="pipe")
    assert message["stdin"] == "pipe"
    os.write(near, b"x")
    os.close(near)  # as when the server is killed
    assert os.read(out, 10) == b"x"
    assert os.waitpid(message["pid"], os.WNOHANG) == (0, 0)
    launched.jobs.close_stdin("a")
    launched.jobs.close_stdin("a")
    launched.jobs.close_stdin("nobody")
    assert launched.reap() == 0
    launched.jobs.tell_all()
    told, fds = launched.heard.pop()
    assert (told["stdin"], len(fds)) == ("closed", 2)
    protocol.close_all([out, err, pidfd, *fds])
    launched.jobs.release("a")


def test_a_terminal_is_the_jobs_own(launched: Launched) -> None:
    """Its near side comes with the job, and what the others read ends of itself."""
    message, (out, err, pidfd, near) = launched.launch("a", "stty", "size", stdin="terminal", size=[30, 100])
    assert message["stdin"] == "terminal"
    assert (os.read(err, 10), os.read(out, 10)) == (b"", b"")  # nobody carries anything there yet
    assert launched.reap() == 0
    os.set_blocking(near, True)
    assert os.read(near, 100) == b"30 100\r\n"
    protocol.close_all([out, err, pidfd, near])
    launched.jobs.release("a")


@needs_root
def test_a_terminal_is_its_users_alone_whatever_the_machine_gives() -> None:
    """On most, terminals come writable for a group; the job's group, once the job's user has them."""
    mounts = "mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts && mount --bind /dev/pts/ptmx /dev/ptmx"
    look = (
        "import os; from jobd.launcher.terminal import open_terminal; other = os.openpty()[1]; "
        "print(*(oct(os.fstat(fd).st_mode & 0o777) for fd in (other, *open_terminal(24, 80)[1:])))"
    )
    command = ["unshare", "--mount", "sh", "-c", f'{mounts} || exit 77; exec "$0" -c "$1"', sys.executable, look]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("needs to be allowed to mount terminals of its own")
    assert done.stdout.split() == ["0o620", "0o600"], done.stderr


def test_what_an_older_launcher_knew_is_taken_over(launched: Launched) -> None:
    """It said nothing of stdin: its jobs have none to write to."""
    _, fds = launched.launch("a", "sleep", "1000")
    [facts] = launched.jobs.state()
    del facts["child"]["stdin"], facts["child"]["near"]
    later = Launched()
    later.jobs.take_over([facts])
    later.jobs.tell_all()
    told, told_fds = later.heard.pop()
    assert (told["stdin"], len(told_fds)) == ("none", 3)
    later.jobs.close_stdin("a")
    later.jobs.signal("a", 9)
    assert later.reap() == 9
    later.jobs.release("a")
    later.selector.close()
    protocol.close_all([*fds, *told_fds])
