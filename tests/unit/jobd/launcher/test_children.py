"""What becomes of a fork: the program, or an honest word about what went wrong in between."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Sequence
from pathlib import Path

import pytest

from jobd.launcher.children import EXECUTED, Child, Failure, spawn
from jobd.launcher.local import LocalLauncher
from jobd.launcher.program import Program
from jobd.limits.walk import Walk
from jobd.worker.errors import LaunchError
from jobd.worker.job import JobSpec, Reason
from jobd.worker.ports import Source
from tests.support.accounts import DAEMON, NOBODY, needs_not_root, needs_root

ENV = {"PATH": os.environ["PATH"]}


def program(*argv: str, identity: tuple[int, int, Sequence[int]] | None = None, cwd: str = "/") -> Program:
    return Program(list(argv), ENV, cwd, [], {}, 0, 0o022, identity and (*identity[:2], list(identity[2])))


def ended(child: Child) -> tuple[Failure | None, bytes]:
    """Whether it executed, or why not, and what it wrote."""
    select.select([child.report], [], [])
    failure = child.hear()
    os.close(child.report)
    with os.fdopen(child.out, "rb") as out:
        text = out.read()
    os.close(child.err)
    os.waitpid(child.pid, 0)
    return failure, text


@needs_root
def test_a_child_becomes_somebody_else_for_good() -> None:
    """All three user ids and group ids, and the supplementary groups; none of ours is left."""
    identity = (NOBODY.pw_uid, DAEMON.pw_gid, [DAEMON.pw_gid, 12345])
    failure, text = ended(spawn(program("grep", "-E", "^(Uid|Gid|Groups)", "/proc/self/status", identity=identity)))
    assert failure is EXECUTED
    uid, gid, groups = (line.split()[1:] for line in text.decode().splitlines())
    assert set(uid) == {str(NOBODY.pw_uid)}
    assert set(gid) == {str(DAEMON.pw_gid)}
    assert groups == [str(DAEMON.pw_gid), "12345"]


@needs_root
def test_streams_are_given_to_the_jobs_user_but_for_the_machines_own() -> None:
    """Who writes to /dev/stdout opens it; /dev/null is a device of the machine."""
    identity = (NOBODY.pw_uid, NOBODY.pw_gid, [NOBODY.pw_gid])
    _, text = ended(spawn(program("sh", "-c", "stat -Lc %u /dev/stdin /dev/stdout /dev/stderr", identity=identity)))
    assert text.decode().split() == ["0", str(NOBODY.pw_uid), str(NOBODY.pw_uid)]


@needs_root
def test_each_step_of_a_change_of_identity_is_told_by_name() -> None:
    """And nothing is executed."""
    identity = (NOBODY.pw_uid, NOBODY.pw_gid, [-1])
    assert ended(spawn(program("true", identity=identity))) == (Failure("groups", errno.EINVAL), b"")


@needs_not_root
def test_who_is_not_root_becomes_nobody_else() -> None:
    """The first step fails."""
    identity = (DAEMON.pw_uid, DAEMON.pw_gid, [DAEMON.pw_gid])
    assert ended(spawn(program("true", identity=identity))) == (Failure("streams", errno.EPERM), b"")


# ---- without a launcher


@needs_root
async def test_it_is_the_same_without_a_launcher() -> None:
    """User, group, groups and umask."""
    spec = JobSpec(("sh", "-c", "id -u; id -g; umask; echo $HOME > /dev/stdout"), user="nobody", umask=0o027)
    process = await LocalLauncher(Walk()).launch("job", spec)
    assert await process.exited() == 0
    written = os.read(process.pipe(Source.STDOUT).fileno(), 4096).decode().split()
    assert written == [str(NOBODY.pw_uid), str(NOBODY.pw_gid), "0027", NOBODY.pw_dir]
    for source in Source:
        process.pipe(source).close()


@needs_root
async def test_a_working_directory_without_a_launcher_is_entered_as_the_jobs_user(tmp_path: Path) -> None:
    """One that only root can enter is refused to others."""
    (tmp_path / "closed").mkdir(mode=0o700)
    with pytest.raises(LaunchError) as caught:
        await LocalLauncher(Walk()).launch("job", JobSpec(("true",), user="nobody", cwd=str(tmp_path / "closed")))
    assert caught.value.reason == Reason.CWD_UNUSABLE


async def test_a_user_that_has_gone_since_is_a_job_that_says_so() -> None:
    """Whoever took the job had looked."""
    with pytest.raises(LaunchError, match="there is no user 'no-such-user' here") as caught:
        await LocalLauncher(Walk()).launch("job", JobSpec(("true",), user="no-such-user"))
    assert caught.value.reason == Reason.USER_UNUSABLE
