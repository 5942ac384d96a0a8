"""A job that runs as another user is kept from the machine all the same, and has in a sandbox what it has outside.

Its user, umask, secrets and streams. With a real jobd, and accounts that every machine has. The sandboxes are
bubblewrap's, where this machine lets nobody make them; else those tests are skipped by name.
"""

from __future__ import annotations

import os
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from api.client import JobClient
from api.errors import InvalidArgumentError
from api.messages import IoClass, Isolation, JobState, Limits
from jobd.launcher.local import LocalLauncher
from jobd.limits.isolation import Bubblewrap, try_out
from jobd.limits.walk import Walk
from jobd.worker import isolation
from jobd.worker.errors import LaunchError
from jobd.worker.identity import look_up
from jobd.worker.isolation import SANDBOXED
from jobd.worker.job import JobSpec, Reason
from tests.support.accounts import NOBODY, needs_root, said, unprivileged
from tests.support.daemon import JobdProgram, jobd_program
from tests.support.jobs import new_mark, processes_with
from tests.support.patience import patient
from tests.support.pki import TestPki

SECONDS = patient(60)
NOTHING = "0" * 16
WHOLE = Isolation(**dict.fromkeys(SANDBOXED, True))


@asynccontextmanager
async def running(
    pki: TestPki, directory: Path, *flags: str, sandboxes: bool = True
) -> AsyncIterator[tuple[JobdProgram, JobClient]]:
    """A jobd of root whose jobs are nobody's, run by an interpreter that nobody can run, and a writer.

    Skips the test where nobody can make no sandboxes, if it takes them.
    """
    with unprivileged(pki, directory) as one:
        settings = {name: value for name, value in one.settings.items() if name != "identity"}
        arguments = ("--job-user", "nobody", *flags)
        with jobd_program(pki, directory / "state", *arguments, **settings) as jobd, trio.fail_after(SECONDS):
            async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS) as client:
                [worker] = (await client.workers()).workers
                if sandboxes and not set(SANDBOXED) <= set(worker.isolation):
                    pytest.skip("needs bubblewrap (bwrap), and a machine that lets nobody make sandboxes with it")
                yield jobd, client


@needs_root
def test_what_can_be_had_is_tried_out_as_the_jobs_user(tmp_path: Path) -> None:
    """Who may be let less than root: here, to execute the program."""
    tmp_path.chmod(0o700)
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert try_out(Bubblewrap(str(program)), isolation.NO_ISOLATION) == ""
    assert try_out(Bubblewrap(str(program)), isolation.NO_ISOLATION, look_up("nobody")) == "Permission denied"


@needs_root
async def test_a_sandboxed_job_of_another_user_is_that_user(pki: TestPki, tmp_path: Path) -> None:
    """For good, in a user namespace of its own, with no capability, whichever part of a sandbox it has."""
    script = (
        "id -u; id -g; echo $USER $HOME; "
        "grep -E '^(Uid|Cap(Prm|Eff|Amb)|NoNewPrivs)' /proc/self/status | tr -s '\t' ' '; "
        "awk '{print $1, $3}' /proc/self/uid_map"
    )
    expected = [
        *(str(NOBODY.pw_uid), str(NOBODY.pw_gid), f"nobody {NOBODY.pw_dir}"),
        f"Uid: {' '.join([str(NOBODY.pw_uid)] * 4)}",
        *(f"CapPrm: {NOTHING}", f"CapEff: {NOTHING}", f"CapAmb: {NOTHING}", "NoNewPrivs: 1"),
        f"{NOBODY.pw_uid} 1",
    ]
    async with running(pki, tmp_path) as (_, client):
        for asked in (WHOLE, *(Isolation(**{name: True}) for name in SANDBOXED)):
            job, text = await said(client, script, isolation=asked)
            assert (job.message, text.splitlines()) == ("exited with code 0", expected)
            assert processes_with(f"JOBD_JOB_ID={job.id}") == []


@needs_root
async def test_who_it_is_on_disk_and_its_umask(pki: TestPki, tmp_path: Path) -> None:
    """What it makes belongs to its user, with the bits that are left; what its user may not read it may not either."""
    room, closed = tmp_path / "room", tmp_path / "closed"
    room.mkdir()
    room.chmod(0o777)
    closed.write_text("closed")
    closed.chmod(0o600)
    for directory in (tmp_path, *tmp_path.parents):  # the way there is pytest's, and root's alone
        if not directory.stat().st_mode & 0o001:
            directory.chmod(directory.stat().st_mode | 0o011)
    async with running(pki, tmp_path) as (_, client):
        private = Isolation(no_network=True, pid_namespace=True)
        script = f"umask; : > made; mkdir sub; cat {closed} 2>/dev/null || echo closed to it"
        job, text = await said(client, script, isolation=private, umask=0o027, cwd=str(room))
        assert (job.state, text) == (JobState.SUCCEEDED, "0027\nclosed to it\n")
        made, sub = (room / "made").stat(), (room / "sub").stat()
        assert (made.st_uid, made.st_gid, made.st_mode & 0o777, sub.st_mode & 0o777) == (
            *(NOBODY.pw_uid, NOBODY.pw_gid),
            *(0o640, 0o750),
        )
        _, text = await said(client, "umask; umask > /tmp/x; stat -c '%a %u' /tmp/x", isolation=WHOLE)
        assert text == f"0022\n644 {NOBODY.pw_uid}\n"


@needs_root
async def test_its_directory_is_entered_as_its_user(pki: TestPki, tmp_path: Path) -> None:
    """Inside too: one that only root can enter is refused."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    async with running(pki, tmp_path) as (_, client):
        job = await client.start(["true"], cwd=str(closed), isolation=WHOLE)
        assert (job.state, job.reason) == (JobState.START_FAILED, "CWD_UNUSABLE")


@needs_root
async def test_secrets_reach_a_sandboxed_job_and_nobody_else(pki: TestPki, tmp_path: Path) -> None:
    """In its environment, and not in that of what makes the sandbox, nor in a command, which everybody can read."""
    word = new_mark()
    async with running(pki, tmp_path) as (_, client):
        for asked in (WHOLE, Isolation(no_network=True)):
            job = await client.start(
                ["sh", "-c", "echo $WORD > /dev/stdout; exec sleep 1000"], isolation=asked, secrets={"WORD": word}
            )
            async with client.stream(job.id) as output:
                assert (await anext(output)).data == f"{word}\n".encode()
            while not (found := processes_with(f"WORD={word}")):  # one that executes has no environment for a moment
                await trio.sleep(0.01)
            assert len(found) == 1
            assert [each for each in Path("/proc").glob("[0-9]*/cmdline") if word.encode() in content(each)] == []
            assert (await client.stop(job.id, grace=0)).spec.secret_env == {"WORD": ""}


def content(file: Path) -> bytes:
    """That of a file in /proc, as long as its process is there."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


@needs_root
async def test_limits_hold_for_another_users_job(pki: TestPki, tmp_path: Path) -> None:
    """Its turn at a disk and niceness too; one that only root may raise is raised before the user is taken."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    async with running(pki, tmp_path) as (_, client):
        for open_files in (50, min(hard + 1, 2**20)):
            limits = Limits(open_files=open_files, nice=4, io_class=IoClass(IoClass.IDLE))
            (one, outside), (other, inside) = [
                await said(client, "ulimit -n; nice", isolation=each, limits=limits) for each in (None, WHOLE)
            ]
            assert (other.message, inside) == (one.message, outside)
            if one.state != JobState.START_FAILED:  # as root without CAP_SYS_RESOURCE
                assert outside == f"{open_files}\n4\n"


@needs_root
async def test_a_sandboxed_job_of_another_user_is_stopped(pki: TestPki, tmp_path: Path) -> None:
    """Processes that want to stay included: root still reaches what is in another's namespace."""
    script = "setsid sh -c 'trap \"\" TERM; echo ready; while :; do sleep 0.1; done' & wait"
    async with running(pki, tmp_path, "--grace", "0.2") as (_, client):
        mark = new_mark()
        job = await client.start(["sh", "-c", script], isolation=WHOLE, env={"MARK": mark})
        async with client.stream(job.id) as output:
            assert (await anext(output)).data == b"ready\n"
        stopped = await client.stop(job.id)
        assert (stopped.state, processes_with(mark)) == (JobState.STOPPED, [])


@needs_root
async def test_capabilities_are_dropped_of_another_user_too(pki: TestPki, tmp_path: Path) -> None:
    """And of root with another group: that is taken before they are."""
    flag, script = Isolation(drop_capabilities=True), "id -u; id -gn; grep -E 'Cap(Prm|Eff|Amb)' /proc/self/status"
    file = tmp_path / "jobd.toml"
    file.write_text("[principals.alice]\nusers = ['root', 'nobody']\ngroups = ['daemon']\n")
    async with running(pki, tmp_path, "--config", str(file), sandboxes=False) as (_, client):
        for user, group in (("nobody", ""), ("nobody", "daemon"), ("root", "daemon")):
            job, text = await said(client, script, isolation=flag, user=user, group=group)
            uid, gid, *sets = text.splitlines()
            assert (job.state, int(uid) == 0) == (JobState.SUCCEEDED, user == "root")
            assert gid == group or not group
            assert {each.split()[1] for each in sets} == {NOTHING}


@needs_root
async def test_without_a_launcher_capabilities_are_not_dropped_for_another_user() -> None:
    """It could not take the user afterwards; that is said, and nothing is started."""
    spec = JobSpec(("true",), user="nobody", isolation=isolation.Isolation(drop_capabilities=True))
    with pytest.raises(LaunchError, match="together with another user") as caught:
        await LocalLauncher(Walk(), isolation.Means()).launch("job", spec)
    assert caught.value.reason == Reason.ISOLATION_FAILED


async def test_an_ordinary_user_s_jobd_makes_sandboxes_as_that_user(pki: TestPki, tmp_path: Path) -> None:
    """Where nobody is root, the same holds, or is refused by name."""
    with (
        unprivileged(pki, tmp_path) as one,
        jobd_program(one.pki, one.directory / "state", **one.settings) as jobd,
        trio.fail_after(SECONDS),
    ):
        async with JobClient.connect(jobd.server, **one.pki.credentials("alice"), retry_for=SECONDS) as client:
            [worker] = (await client.workers()).workers
            if not set(SANDBOXED) <= set(worker.isolation):
                with pytest.raises(InvalidArgumentError, match="cannot be had here"):
                    await client.start(["true"], isolation=WHOLE)
                return
            job, text = await said(client, "id -u", isolation=WHOLE, umask=0o077)
            uid = os.geteuid() or NOBODY.pw_uid
            assert (job.message, text) == ("exited with code 0", f"{uid}\n")
