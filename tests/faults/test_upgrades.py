"""``jobd upgrade`` and SIGHUP: both halves are replaced and no job is touched, or nothing is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from api.client import JobClient
from tests.support.daemon import JobdProgram, jobd_program
from tests.support.patience import patient
from tests.support.pki import TestPki

ROOT = Path(__file__).parents[2]
SECONDS = patient(30)


def connect(pki: TestPki, jobd: JobdProgram) -> JobClient:
    return JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS)


def upgrade(state: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobd", "upgrade", "--state", str(state)],
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


async def test_jobd_upgrade_replaces_both_halves(pki: TestPki, tmp_path: Path) -> None:
    """It waits until the new server is ready; jobs and the pid of the launcher stay."""
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            job = await client.start(["sleep", "1000"])
            launcher, server = jobd.launcher, await trio.to_thread.run_sync(jobd.server_pid)
            done = await trio.to_thread.run_sync(upgrade, tmp_path / "state")
            assert (done.returncode, done.stderr) == (0, "")
            assert jobd.launcher == launcher
            assert await trio.to_thread.run_sync(jobd.server_pid) != server
            assert (await client.query(job.id)).pid == job.pid
        assert "executed anew, with 1 jobs" in jobd.log.read_text()


def test_jobd_upgrade_without_a_jobd_says_so(tmp_path: Path) -> None:
    """Bad usage: nobody has that directory."""
    done = upgrade(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"jobd upgrade: no jobd has the state directory {tmp_path}: ")


async def test_code_that_does_not_start_changes_nothing(pki: TestPki, tmp_path: Path) -> None:
    """The upgrade is refused with the last line of what the new code said, and all goes on."""
    broken = tmp_path / "code" / "jobd"
    with (
        jobd_program(pki, tmp_path / "state", path=[tmp_path / "code", ROOT]) as jobd,
        trio.fail_after(SECONDS),
    ):
        async with connect(pki, jobd) as client:
            await client.workers()
            server = await trio.to_thread.run_sync(jobd.server_pid)
            broken.mkdir(parents=True)
            (broken / "__init__.py").write_text("raise ImportError('half installed')")
            done = await trio.to_thread.run_sync(upgrade, tmp_path / "state")
            assert done.returncode == 1
            assert "a new server would not start" in done.stderr
            assert "ImportError: half installed" in done.stderr
            assert await trio.to_thread.run_sync(jobd.server_pid) == server
            await client.workers()


async def test_jobs_begin_and_end_while_new_code_is_tried(pki: TestPki, tmp_path: Path) -> None:
    """However long it takes to load: the launcher hears everybody meanwhile."""
    code, gate = tmp_path / "code", tmp_path / "gate"
    code.mkdir()
    with jobd_program(pki, tmp_path / "state", path=[code, ROOT]) as jobd, trio.fail_after(SECONDS):
        (code / "sitecustomize.py").write_text(
            f"""import os, sys, time
if any("try_out" in word for word in sys.orig_argv):
    open({str(gate)!r} + ".seen", "w").close()
    while not os.path.exists({str(gate)!r}):
        time.sleep(0.01)
"""
        )
        async with connect(pki, jobd) as client, trio.open_nursery() as nursery:
            ended = []

            async def upgraded() -> None:
                ended.append((await trio.to_thread.run_sync(upgrade, tmp_path / "state")).returncode)

            nursery.start_soon(upgraded)
            while not gate.with_name("gate.seen").exists():
                await trio.sleep(0.01)
            [job] = await client.wait((await client.start(["true"])).id)
            assert (job.exit_code, ended) == (0, [])
            gate.touch()
        assert ended == [0]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        pytest.param("", "does not belong to the certificate", id="certificate"),
        pytest.param("slots = 0", "slots", id="setting"),
        pytest.param('crl = "/nowhere/list.pem"', "/nowhere/list.pem", id="no list there"),
        pytest.param('audit-log = "/nowhere/audit.log"', "/nowhere/audit.log cannot be made", id="no log"),
        pytest.param('job-user = "nobody-at-all"', "nobody-at-all", id="no such user"),
        pytest.param('metrics = "0.0.0.0:9464"', "others can reach that address", id="metrics for everybody"),
        pytest.param('metrics-file = "/nowhere/all.prom"', "there is no directory", id="no file of metrics"),
    ],
)
async def test_what_cannot_be_used_changes_nothing(pki: TestPki, tmp_path: Path, bad: str, why: str) -> None:
    """The upgrade is refused with the reason, the old server and what it had read stay, and SIGHUP is as safe; when
    it is put right, there is an upgrade."""
    certificate, config = tmp_path / "server.crt", tmp_path / "jobd.toml"
    certificate.write_bytes(pki.server()["cert"].read_bytes())
    config.write_text("slots = 5\n")
    flags = ("--cert", str(certificate), "--config", str(config))
    with jobd_program(pki, tmp_path / "state", *flags) as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            await client.workers()
            server = await trio.to_thread.run_sync(jobd.server_pid)
            file = config if bad else certificate
            good = file.read_text()
            file.write_text(f"{bad}\n" if bad else pki.ca.read_text())
            done = await trio.to_thread.run_sync(upgrade, tmp_path / "state")
            assert done.returncode == 1
            assert "a new server would not start, and everything stays as it is: jobd: " in done.stderr
            assert why in done.stderr
            jobd.process.send_signal(signal.SIGHUP)
            while jobd.log.read_text().count("no upgrade: a new server would not start") < 2:
                await trio.sleep(0.01)
            assert await trio.to_thread.run_sync(jobd.server_pid) == server
            await client.workers()
            file.write_text(good)
            assert (await trio.to_thread.run_sync(upgrade, tmp_path / "state")).returncode == 0
            assert await trio.to_thread.run_sync(jobd.server_pid) != server
            await client.workers()


async def test_a_working_directory_that_was_removed_is_in_nobody_s_way(
    pki: TestPki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next server is started all the same."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        monkeypatch.undo()
        here.rmdir()
        async with connect(pki, jobd) as client:
            job = await client.start(["sleep", "1000"])
            jobd.kill_server()
            assert (await client.query(job.id)).pid == job.pid


def test_a_refusal_needs_nobody_to_hear_it(pki: TestPki, tmp_path: Path) -> None:
    """The exit code is the same without a stderr."""
    state = tmp_path / "state"
    with jobd_program(pki, state):
        flags = [text for name, path in pki.server().items() for text in (f"--{name}", str(path))]
        arguments = [sys.executable, "-m", "jobd", *flags, "--state", str(state), "--listen", "127.0.0.1:0"]
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", *arguments],
            check=False,
            timeout=SECONDS,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 2
