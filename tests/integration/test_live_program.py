"""Certificates that change under the real program: its log, SIGHUP, and a server without privileges."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio

from api.client import JobClient
from api.errors import UnauthenticatedError
from api.messages import Job, JobState
from pki.renewal import renew
from tests.support.accounts import DAEMON, needs_root, room
from tests.support.daemon import ROOT, JobdProgram, is_alive, jobd_program
from tests.support.live_calls import KEPT, TAKEN, serial_in, serial_of
from tests.support.live_pki import LivePki
from tests.support.patience import patient

SECONDS = patient(60)
AS = ("--user", "daemon", "--job-user", "nobody")


async def logged(jobd: JobdProgram, event: str, times: int = 1) -> dict[str, Any]:
    """The line of one kind that comes so many times; waits for it."""
    while len(lines := jobd.logged(event)) < times:
        await trio.sleep(0.02)
    return lines[times - 1]


def connect(pki: LivePki, jobd: JobdProgram, name: str = "alice") -> Any:
    """As one of the clients."""
    return JobClient.connect(jobd.server, **pki.credentials(name), retry_for=SECONDS)


async def assert_follower_is_ended(client: JobClient, job: Job, why: str) -> None:
    """The stream is ended by the server, for that reason."""
    with pytest.raises(UnauthenticatedError) as caught:
        await client.wait(job.id)
    assert caught.value.reason == why


async def test_the_program_takes_and_tells(tmp_path: Path) -> None:
    """Its log is where operators see what was taken, what was not and who was turned away; SIGHUP takes files too."""
    ours = LivePki.grow(tmp_path / "pki")
    context = ours.context("alice")
    with jobd_program(ours, tmp_path / "state", "--crl", str(ours.crl)) as jobd, trio.fail_after(2 * SECONDS):
        async with connect(ours, jobd) as alice, connect(ours, jobd, "rita") as rita:
            job = await alice.start(["sleep", "1000"])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(assert_follower_is_ended, rita, job, "CERTIFICATE_REVOKED")
                ours.revoke("rita")
            assert (await logged(jobd, TAKEN))["changed"] == [str(ours.crl)]
            assert (await logged(jobd, "client refused"))["principal"] == "rita"
            ours.key("server").write_bytes(b"half a key")
            assert (await logged(jobd, KEPT))["level"] == "error"
            before = await trio.to_thread.run_sync(jobd.server_pid)
            os.kill(jobd.process.pid, signal.SIGHUP)
            while "jobd: no upgrade: " not in jobd.log.read_text():
                await trio.sleep(0.02)
            assert await trio.to_thread.run_sync(jobd.server_pid) == before
            ours.server_again()
            os.kill(jobd.process.pid, signal.SIGHUP)
            while is_alive(before):  # it leaves to a new one, which has read them itself
                await trio.sleep(0.02)
            while await serial_of(jobd.server, context) != serial_in(ours.certificate("server")):
                await trio.sleep(0.02)
            assert (await alice.query(job.id)).state is JobState.RUNNING
            await alice.stop(job.id, grace=1)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--crl", "nothing"), "cannot read the revocation list nothing"),
        (("--crl", "pki/ca.crt"), "pki/ca.crt holds no revocation list"),
        (("--crl", "pki/ca.crl", "--crl-policy", "none"), "--crl-policy: 'none' is not one of hard-fail, soft-fail"),
    ],
)
def test_a_list_that_cannot_be_used_is_told(tmp_path: Path, flags: tuple[str, ...], told: str) -> None:
    """Exit code 2 and one sentence, before anything is done."""
    LivePki.grow(tmp_path / "pki")
    files = ("--cert", "pki/server.crt", "--key", "pki/server.key", "--ca", "pki/ca.crt")
    command = [sys.executable, "-m", "jobd", *files, "--state", "state", "--listen", "127.0.0.1:0", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert not (tmp_path / "state").exists()


# ---- a server without privileges


@needs_root
async def test_a_server_without_privileges_takes_what_its_user_can_read() -> None:
    """It keeps the key that it read as root, and says so: a list, and a renewed certificate, are taken at once; a new
    key with SIGHUP."""
    with room() as directory:
        ours = LivePki.grow(directory / "pki")
        ours.directory.chmod(0o755)
        context = ours.context("alice")
        with (
            jobd_program(ours, directory / "state", *AS, "--crl", str(ours.crl)) as jobd,
            trio.fail_after(SECONDS),
        ):
            async with connect(ours, jobd) as alice, connect(ours, jobd, "rita") as rita:
                server = await trio.to_thread.run_sync(jobd.server_pid)
                assert Path(f"/proc/{server}/status").read_text().count(f"Uid:\t{DAEMON.pw_uid}") == 1
                assert (await logged(jobd, CANNOT))["files"] == [str(ours.key("server"))]
                job = await alice.start(["sleep", "1000"])
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(assert_follower_is_ended, rita, job, "CERTIFICATE_REVOKED")
                    ours.revoke("rita")
                renew(ours.authority, ours.certificate("server"), now=datetime.now(UTC))
                await logged(jobd, TAKEN, 2)
                assert await serial_of(jobd.server, context) == serial_in(ours.certificate("server"))
                ours.server_again()
                line = await logged(jobd, KEPT)
                assert "does not belong to the certificate" in line["error"]
                os.kill(jobd.process.pid, signal.SIGHUP)
                await logged(jobd, CANNOT, 2)
                while await serial_of(jobd.server, context) != serial_in(ours.certificate("server")):
                    await trio.sleep(0.02)
                assert (await alice.query(job.id)).state is JobState.RUNNING
                await alice.stop(job.id, grace=1)


CANNOT = "this server cannot read some files again; 'jobd upgrade' or SIGHUP takes new ones"


@needs_root
async def test_it_needs_to_read_nothing_again() -> None:
    """In a directory that is root's alone it serves as before, with what it has."""
    with room() as directory:
        ours = LivePki.grow(directory / "pki")
        with (
            jobd_program(ours, directory / "state", *AS, "--crl", str(ours.crl)) as jobd,
            trio.fail_after(SECONDS),
        ):
            files = [ours.certificate("server"), ours.key("server"), ours.ca, ours.crl]
            assert (await logged(jobd, CANNOT))["files"] == [str(path) for path in files]
            ours.revoke("rita")
            async with connect(ours, jobd, "rita") as rita:
                for _ in range(3):
                    await trio.sleep(0.5)  # nothing is to happen
                    await rita.workers()
            assert jobd.logged(KEPT) == []
