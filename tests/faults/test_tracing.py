"""A job of jobd's own user looks for its memory, environment and descriptors, and gets none of it."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import pytest
import trio

from api.client import JobClient
from api.messages import JobState
from tests.support.accounts import NOBODY, configuration, needs_root, room, said, unprivileged
from tests.support.daemon import ROOT, jobd_program
from tests.support.patience import patient
from tests.support.pki import TestPki

SECONDS = patient(40)
LOOK = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
for pid in map(int, sys.argv[1:]):
    for file in ("environ", "mem", "maps", "auxv"):
        try:
            open(f"/proc/{pid}/{file}", "rb").read(1)
            print("read", file)
        except PermissionError:
            print("refused")
    try:
        os.listdir(f"/proc/{pid}/fd")
        print("read fd")
    except PermissionError:
        print("refused")
    fd = os.pidfd_open(pid)
    print("refused" if libc.syscall(438, fd, 0, 0) == -1 else "got a descriptor")  # pidfd_getfd(2)
    print("refused" if libc.ptrace(16, pid, None, None) == -1 else "traced")  # PTRACE_ATTACH
    os.kill(pid, 0)
    print("may be killed")
"""
REFUSED = ["refused"] * 7 + ["may be killed"]


@pytest.mark.parametrize("before", ["", "server killed", "upgraded"])
async def test_a_job_of_the_same_user_cannot_look_into_jobd(pki: TestPki, tmp_path: Path, before: str) -> None:
    """Neither into the launcher nor into the server. It may kill them: that is told, and costs nothing but time."""
    with unprivileged(pki, tmp_path) as ours, trio.fail_after(SECONDS):
        script = ours.directory / "look.py"
        script.write_text(LOOK)
        script.chmod(0o644)
        with jobd_program(ours.pki, ours.directory / "state", **ours.settings) as jobd:
            async with JobClient.connect(jobd.server, **ours.pki.credentials("alice"), retry_for=SECONDS) as client:
                if before == "server killed":
                    jobd.kill_server()
                elif before == "upgraded":
                    upgrade = [sys.executable, "-m", "jobd", "upgrade", "--state", str(jobd.state)]
                    await trio.run_process(upgrade, cwd=ROOT)
                await client.workers()
                python = ours.settings.get("python", "/usr/bin/env python3")
                server = await trio.to_thread.run_sync(jobd.server_pid)
                job, text = await said(client, f"exec {python} {script} {jobd.launcher} {server}")
                assert text.splitlines() == REFUSED * 2, job.message


@needs_root
async def test_a_job_of_another_user_harms_neither_jobd_nor_other_jobs(pki: TestPki, tmp_path: Path) -> None:
    """With root and a job user, which is how jobd is meant to be run; in directories that keep nobody out.
    What is refused to it is done to the other job by one of the same user, or the attempts would show nothing."""
    users = configuration(tmp_path, "job-user = 'nobody'\n[roles.writer]\nusers = ['nobody', 'daemon']\n")
    with room() as ours, trio.fail_after(SECONDS):
        shutil.copytree(pki.directory, ours / "pki")
        (ours / "pki").chmod(0o755)
        files = TestPki(ours / "pki")
        with jobd_program(files, ours / "state", "--config", users) as jobd:
            async with JobClient.connect(jobd.server, **files.credentials("alice")) as client:
                server = await trio.to_thread.run_sync(jobd.server_pid)
                other = await client.start(["sleep", "1000"], user="daemon")
                at_other = attempts_at(other.pid)
                store = jobd.state / "jobs.sqlite3"
                tries = [
                    *(each for pid in (jobd.launcher, server) for each in attempts_at(pid)),
                    *at_other,
                    f"cat {files.server()['key']}",
                    f"ls {jobd.state}",
                    f"echo > {jobd.state}/made",
                    f"cat {store}",
                    f"echo >> {store}",
                ]
                reachable = f"cat {files.ca}"
                _, text = await said(client, f"id -u; {succeeding([reachable, *tries])}")
                assert text.splitlines() == [str(NOBODY.pw_uid), reachable]
                assert not (jobd.state / "made").exists()
                _, text = await said(client, succeeding(at_other), user="daemon")
                assert text.splitlines() == at_other
                [ended] = await client.wait(other.id)
                assert (ended.state, ended.signal) == (JobState.KILLED, signal.SIGKILL)


def attempts_at(pid: int) -> list[str]:
    """Commands that look into a process, and end it."""
    return [f"cat /proc/{pid}/environ", f"ls /proc/{pid}/fd", f"kill -0 {pid}", f"kill -KILL {pid}"]


def succeeding(commands: list[str]) -> str:
    """A script that says which of these can be done."""
    return "\n".join(f"({each}) > /dev/null 2>&1 && echo '{each}'" for each in commands) + "\ntrue"
