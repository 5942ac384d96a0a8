"""A server without privileges: with a real jobd, started as root, and accounts that every machine has."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from api.client import JobClient
from api.errors import ConfigError
from api.messages import Job, JobState, Terminal
from jobd.audit.verify import verify
from jobd.launcher import protocol
from jobd.unprivileged import acting_as
from jobd.upgrade import UpgradeError, upgrade
from jobd.worker.identity import look_up
from tests.faults.soak import groups_of
from tests.support.accounts import DAEMON, NOBODY, needs_root, room, said
from tests.support.daemon import ROOT, SOON, JobdProgram, jobd_program, until_dead
from tests.support.patience import patient
from tests.support.pki import TestPki

pytestmark = needs_root
SECONDS = patient(60)
AS = ("--user", "daemon", "--job-user", "nobody")


@asynccontextmanager
async def running(pki: TestPki, *flags: str) -> AsyncIterator[tuple[JobdProgram, JobClient]]:
    """A jobd whose server is daemon's, and whose jobs are nobody's; and alice, who is a writer."""
    with room() as directory, jobd_program(pki, directory / "state", *AS, *flags) as jobd, trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS) as client:
            yield jobd, client


def facts_of(pid: int) -> list[dict[str, str]]:
    """What the kernel says of each thread of a process."""
    return [
        dict(line.split(":\t", 1) for line in (thread / "status").read_text().splitlines() if ":\t" in line)
        for thread in Path(f"/proc/{pid}/task").iterdir()
    ]


async def until_said(client: JobClient, job: Job, size: int) -> None:
    """Until so many bytes of a job's output are recorded."""
    while (await client.query(job.id)).output_bytes < size:
        pass


async def test_the_server_has_no_privileges(pki: TestPki) -> None:
    """In none of its threads: its user and groups, no capability, and no way to come by any; nor does anybody else but
    root look into it."""
    async with running(pki) as (jobd, client):
        await said(client, "true")
        threads = facts_of(await trio.to_thread.run_sync(jobd.server_pid))
        assert len(threads) > 1
        for facts in threads:
            assert set(facts["Uid"].split()) == {str(DAEMON.pw_uid)}
            assert set(facts["Gid"].split()) == {str(DAEMON.pw_gid)}
            assert "0" not in facts["Groups"].split()
            assert [int(facts[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")] == [0, 0, 0]
            assert facts["NoNewPrivs"] == "1"
        server = await trio.to_thread.run_sync(jobd.server_pid)
        assert Path(f"/proc/{server}/environ").stat().st_uid == 0  # it is not dumpable
        assert facts_of(jobd.launcher)[0]["Uid"].split()[0] == "0"


async def test_its_state_is_its_own(pki: TestPki) -> None:
    """All that it writes."""
    async with running(pki) as (jobd, client):
        await said(client, "echo text")
        owners = {path.lstat().st_uid for path in (jobd.state, *jobd.state.rglob("*"))}
        assert owners == {DAEMON.pw_uid}


async def test_what_operators_are_told_by_is_written_with_its_rights_alone(pki: TestPki) -> None:
    """The audit log and the file of metrics, also those that a next server goes on with. In a place that is root's, the
    one is refused, and the other said to be impossible."""
    with room() as directory:
        logs = directory / "logs"
        logs.mkdir()
        os.chown(logs, DAEMON.pw_uid, DAEMON.pw_gid)
        files = ("--audit-log", str(logs / "audit"), "--metrics-file", str(logs / "jobd.prom"))
        async with running(pki, *files, "--metrics", "127.0.0.1:0", "--metrics-interval", "1") as (jobd, client):
            await said(client, "true")
            jobd.kill_server()
            await said(client, "true")
            while not (logs / "jobd.prom").exists():
                await trio.sleep(0.01)
        assert {path.lstat().st_uid for path in logs.iterdir()} == {DAEMON.pw_uid}
        assert verify([logs / "audit"]).problems == []
        config = [*files[:1], str(directory / "audit")]
        arguments = [text for name, path in pki.server().items() for text in (f"--{name}", str(path))]
        command = [sys.executable, "-m", "jobd", "--listen", "127.0.0.1:0", "--state", str(directory / "state"), *AS]
        run = partial(subprocess.run, [*command, *arguments, *config], cwd=ROOT, capture_output=True, text=True)
        done = await trio.to_thread.run_sync(partial(run, timeout=SECONDS, check=False))
        assert done.returncode == 2
        assert f"the audit log {directory / 'audit'} cannot be used: Permission denied" in done.stderr
        assert not (directory / "audit").exists()


async def test_jobs_run_as_the_job_user(pki: TestPki) -> None:
    """Who is neither root nor the server's."""
    async with running(pki) as (_, client):
        job, text = await said(client, "id -u")
        assert (job.state, text) == (JobState.SUCCEEDED, f"{NOBODY.pw_uid}\n")


@pytest.mark.parametrize("containment", ["auto", "cgroup-v1", "none"])
async def test_a_stop_reaches_all_of_a_job(pki: TestPki, containment: str) -> None:
    """Though the server may signal none of it: those that ignore SIGTERM, and those that left the session."""
    async with running(pki, "--containment", containment) as (_, client):
        script = "trap '' TERM; setsid sh -c 'trap \"\" TERM; echo; read x < /dev/zero' & echo; read x < /dev/zero"
        job = await client.start(["sh", "-c", script])
        await until_said(client, job, 2)
        ended = await client.stop(job.id, grace=0.2)
        assert ended.state is JobState.STOPPED
        assert ended.stop_receipt is not None
        assert ended.stop_receipt.empty
        assert sorted(each.left_session for each in ended.stop_receipt.processes) == [False, True]
        for each in ended.stop_receipt.processes:
            assert not Path(f"/proc/{each.pid}").exists()


async def test_signals_reach_group_and_main(pki: TestPki) -> None:
    """Of a job that is another user's."""
    async with running(pki) as (_, client):
        job = await client.start(["sh", "-c", "trap 'exit 0' USR1; echo; while :; do sleep 0.05; done"])
        await until_said(client, job, 1)
        await client.signal(job.id, signal.SIGUSR1)
        [ended] = await client.wait(job.id)
        assert (ended.exit_code, ended.signal) == (0, None)
        job = await client.start(["sh", "-c", "trap 'exit 3' USR1; echo; while :; do sleep 0.05; done"])
        await until_said(client, job, 1)
        stopped = await client.stop(job.id, signum=signal.SIGUSR1, main_only=True)
        assert (stopped.exit_code, stopped.signal) == (3, None), stopped.stop_receipt


async def test_a_killed_server_is_followed_by_another(pki: TestPki) -> None:
    """Which reads its key as root again, gives up its privileges again, and has the job and its output."""
    async with running(pki) as (jobd, client):
        job = await client.start(["sh", "-c", "sleep 1000"])
        first = await trio.to_thread.run_sync(jobd.server_pid)
        jobd.kill_server()
        while await trio.to_thread.run_sync(jobd.server_pid) == first:
            await trio.sleep(0.01)
        assert (await client.query(job.id)).state is JobState.RUNNING
        assert facts_of(await trio.to_thread.run_sync(jobd.server_pid))[0]["Uid"].split()[0] == str(DAEMON.pw_uid)
        ended = await client.stop(job.id, grace=0.5)
        assert ended.state is JobState.STOPPED


async def test_a_job_cannot_read_what_the_server_has(pki: TestPki) -> None:
    """Neither its key nor its state."""
    async with running(pki) as (jobd, client):
        key = pki.server()["key"]
        assert key.stat().st_uid == 0
        job, _ = await said(client, f"cat {key} || ls {jobd.state} || cat {jobd.state}/lock || touch {jobd.state}/x")
        assert job.state is JobState.FAILED


async def test_a_terminal_works(pki: TestPki) -> None:
    """Before and after an upgrade: its relay is opened by the server, who is not its owner by itself."""
    async with running(pki) as (jobd, client):
        script = 'stty -echo; echo begun; while read x; do echo "$x $(stty size) $(id -u)"; done; exit 6'
        job = await client.start(["sh", "-c", script], terminal=Terminal(24, 80))
        async with client.attach(job.id, size=(30, 100)) as attachment:
            assert (await anext(attachment)).data == b"begun\r\n"
            for number in range(2):
                await upgraded(jobd)
                await attachment.send(b"%d\n" % number)
                assert (await anext(attachment)).data == b"%d 30 100 65534\r\n" % number
            await attachment.send(b"\x04")
            assert [chunk async for chunk in attachment] == []


async def upgraded(jobd: JobdProgram) -> None:
    command = [sys.executable, "-m", "jobd", "upgrade", "--state", str(jobd.state)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    before = await trio.to_thread.run_sync(jobd.server_pid)
    await trio.run_process(command, env=environment)
    assert await trio.to_thread.run_sync(jobd.server_pid) != before
    assert owner(jobd) == DAEMON.pw_uid


def owner(jobd: JobdProgram) -> int:
    return int(facts_of(jobd.server_pid())[0]["Uid"].split()[0])


async def test_stdin_is_given_and_fed(pki: TestPki) -> None:
    """By a server whose pipe and memfd become the job user's."""
    async with running(pki) as (_, client):
        job = await client.start(["cat"], stdin=b"given")
        async with client.stream(job.id) as output:
            assert [chunk.data async for chunk in output] == [b"given"]
        job = await client.start(["cat"], attachable=True)
        async with client.attach(job.id) as attachment:
            await attachment.send(b"fed")
            await attachment.close_stdin()
            assert [chunk.data async for chunk in attachment] == [b"fed"]


async def test_the_next_jobd_takes_up_jobs(pki: TestPki) -> None:
    """Its front finds the launcher in the state directory, which is the server's user's."""
    with room() as directory, trio.fail_after(SECONDS):
        with jobd_program(pki, directory / "state", *AS, "--no-stop-jobs") as jobd:
            async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS) as client:
                job = await client.start(["sleep", "1000"])
            launcher = jobd.launcher
        with jobd_program(pki, directory / "state", *AS) as jobd:
            async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS) as client:
                assert (await client.query(job.id)).pid == job.pid
                assert (jobd.launcher, owner(jobd)) == (launcher, DAEMON.pw_uid)
                assert (await client.stop(job.id, grace=1)).state is JobState.STOPPED
        await trio.to_thread.run_sync(until_dead, launcher)


async def test_nothing_is_left_behind(pki: TestPki) -> None:
    """No control group, though the server has no right to remove the one for all jobs."""
    with room() as directory, trio.fail_after(SECONDS):
        with jobd_program(pki, directory / "state", *AS) as jobd:
            async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS) as client:
                await said(client, "true")
            launcher = jobd.launcher
            name = f"jobd-{zlib.crc32(os.fsencode(directory / 'state')):08x}"
        await trio.to_thread.run_sync(until_dead, launcher)
        assert groups_of({name}) == []


# ---- as somebody who has taken over the server

AT_THE_DOOR = """
import os, socket, sys
from jobd.launcher import protocol
os.setgroups([])
os.setresgid(1, 1, 1)
os.setresuid(1, 1, 1)
door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
door.connect(sys.argv[1])
wish = {"command": ["/bin/touch", sys.argv[2]], "launcher": ["/bin/touch", sys.argv[2]], "env": {}, "cwd": "/"}
try:
    protocol.send(door, {"op": sys.argv[3]}, [protocol.as_memfd(wish), 1, 2] if sys.argv[3] == "serve" else [])
    print(protocol.receive(door))
except ConnectionError:
    print(None)
"""


async def test_who_may_not_upgrade_is_told_so(pki: TestPki) -> None:
    """The server's user, whom the launcher does not hear; and somebody else, who does not come as far as that."""
    async with running(pki) as (jobd, _):
        with (
            acting_as(look_up("daemon")),
            pytest.raises(UpgradeError, match="you may not: the launcher hears only root"),
        ):
            upgrade(jobd.state)
        with (
            acting_as(look_up("nobody")),
            pytest.raises(ConfigError, match="Permission denied; run this as root, or as"),
        ):
            upgrade(jobd.state)


@pytest.mark.parametrize("wish", ["serve", "upgrade", "knock"])
async def test_nobody_but_root_comes_in_at_the_launchers_door(pki: TestPki, wish: str) -> None:
    """What a front asks for is executed as root."""
    async with running(pki) as (jobd, client):
        before, mark = await trio.to_thread.run_sync(jobd.server_pid), jobd.state.parent / "mark"
        done = await trio.run_process(
            [sys.executable, "-c", AT_THE_DOOR, str(jobd.state / "launcher.sock"), str(mark), wish],
            capture_stdout=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.stdout == b"None\n"
        await said(client, "true")
        assert not mark.exists()
        assert await trio.to_thread.run_sync(jobd.server_pid) == before
        assert f"uid {DAEMON.pw_uid} came to the launcher's socket" in jobd.log.read_text()


async def test_a_front_does_not_ask_an_impostor(pki: TestPki) -> None:
    """Who has put a socket of its own in the launcher's place is not told the command and environment of root's."""
    async with running(pki) as (jobd, _):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as impostor:
            (jobd.state / "launcher.sock").unlink()
            impostor.bind(str(jobd.state / "launcher.sock"))
            os.seteuid(DAEMON.pw_uid)
            impostor.listen()
            os.seteuid(0)
            with (
                pytest.raises(AssertionError, match="is held by another jobd"),
                jobd_program(pki, jobd.state, *AS, program=SOON),
            ):
                pass
            impostor.settimeout(1)
            with impostor.accept()[0] as visitor:
                assert protocol.receive(visitor) is None


@pytest.mark.parametrize("where", ["lock", "launcher.sock"])
def test_nothing_in_the_state_is_touched_as_root(pki: TestPki, where: str) -> None:
    """What an earlier server has put there leads a later one, which begins as root, to no file of root's."""
    with room() as directory:
        victim = directory / "victim"
        victim.write_text("untouched")
        (directory / "state").mkdir(mode=0o700)
        os.chown(directory / "state", DAEMON.pw_uid, DAEMON.pw_gid)
        os.link(victim, directory / "state" / where)
        if where == "lock":
            with pytest.raises(AssertionError, match="cannot be written"), jobd_program(pki, directory / "state", *AS):
                pass
        else:
            with jobd_program(pki, directory / "state", *AS):
                pass
        status = victim.stat()
        assert (victim.read_text(), status.st_uid, status.st_mode & 0o777) == ("untouched", 0, 0o644)


# ---- settings that cannot be


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--user", "daemon"), "name the user that jobs run as as well, with --job-user"),
        (("--user", "root", "--job-user", "nobody"), "that is root"),
        (("--user", "no-such-user", "--job-user", "nobody"), "there is no user 'no-such-user' here"),
        (("--user", "daemon", "--job-user", "daemon"), "jobs may run as daemon here"),
    ],
)
def test_a_setting_that_protects_nothing_is_refused(pki: TestPki, flags: tuple[str, ...], why: str) -> None:
    """With the reason; nothing is made."""
    with room() as directory:
        with pytest.raises(AssertionError, match=why), jobd_program(pki, directory / "state", *flags):
            pass
        assert not (directory / "state").exists()


def test_code_that_the_server_cannot_read_is_told_of(pki: TestPki) -> None:
    """When it has become its user, and before anything is served: in one sentence."""
    with room() as directory:
        code = directory / "code"
        for name in ("api", "jobd", "pki"):
            shutil.copytree(ROOT / name, code / name)
        code.chmod(0o700)
        why = f"--user: daemon cannot read the code of jobd, in {code}/jobd"
        with (
            pytest.raises(AssertionError, match=why) as caught,
            jobd_program(pki, directory / "state", *AS, path=[code]),
        ):
            pass
        assert "Traceback" not in str(caught.value)


def test_a_state_of_somebody_elses_is_refused(pki: TestPki) -> None:
    """Root's, from before, too: its files are not given away one by one."""
    with room() as directory:
        (directory / "state").mkdir(mode=0o700)
        with pytest.raises(AssertionError, match="belongs to uid 0"), jobd_program(pki, directory / "state", *AS):
            pass


def test_a_state_is_not_made_where_others_write(pki: TestPki) -> None:
    """They could put something else in its place before it is given away."""
    with room() as directory:
        directory.chmod(0o777)
        with pytest.raises(AssertionError, match="is not root's alone"), jobd_program(pki, directory / "state", *AS):
            pass
