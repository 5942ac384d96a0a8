"""A job of jobd's own user looks for its memory, environment and descriptors, and gets none of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio

from api.client import JobClient
from tests.support.accounts import NOBODY, needs_root, said, unprivileged
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
            async with JobClient.connect(jobd.server, **ours.pki.credentials("alice"), retry_for=20) as client:
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
async def test_a_job_of_another_user_cannot_even_kill_jobd(pki: TestPki, tmp_path: Path) -> None:
    """With root and a job user, which is how jobd is meant to be run."""
    with jobd_program(pki, tmp_path / "state", "--job-user", "nobody") as jobd, trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice")) as client:
            server = await trio.to_thread.run_sync(jobd.server_pid)
            tries = "; ".join(f"kill -0 {pid} || cat /proc/{pid}/environ" for pid in (jobd.launcher, server))
            key = pki.server()["key"]
            script = f"id -u; {{ {tries}; cat {key} || ls {jobd.state} || echo > {jobd.state}/x; }} 2> /dev/null; true"
            _, text = await said(client, script)
            assert text == f"{NOBODY.pw_uid}\n"
