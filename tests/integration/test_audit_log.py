"""``--audit-log`` of a real server: every call has its line, and kills and rotations do not break the chain."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.typing import EventDict

from api.client import JobClient
from api.errors import ConfigError, PermissionDeniedError
from jobd.audit.verify import verify
from jobd.daemon import run
from tests.support.daemon import ROOT, config_for, jobd_program, open_daemon, until_dead
from tests.support.metrics import scrape, value
from tests.support.patience import patient
from tests.support.pki import TestPki

SECONDS = patient(60)


def calls(*files: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    return [line for line in found if line["event"] == "call"]


async def test_each_call_has_its_line_there_and_not_in_the_log(
    pki: TestPki, tmp_path: Path, log_guard: list[EventDict]
) -> None:
    """With what the log would have; those that are refused too."""
    path = tmp_path / "audit.jsonl"
    with trio.fail_after(SECONDS):
        async with open_daemon(pki, tmp_path / "state", audit_log=path, metrics="127.0.0.1:0") as daemon:
            server = daemon.address.replace("127.0.0.1", "localhost")
            async with JobClient.connect(server, **pki.credentials("alice")) as alice:
                job = await alice.start(["true"])
            async with JobClient.connect(server, **pki.credentials("rita")) as rita:
                with pytest.raises(PermissionDeniedError):
                    await rita.start(["true"])
            assert daemon.metrics is not None
            samples = await scrape(daemon.metrics.address)
            assert value(samples, "jobd_audit_lines_total", {"what": "written"}) <= 3
            assert value(samples, "jobd_audit_lines_total", {"what": "lost"}) == 0
    assert verify([path]).problems == []
    one, other = calls(path)
    assert (one["principal"], one["job"], one["status"]) == ("alice", job.id, "OK")
    assert (other["principal"], other["reason"], other["status"]) == ("rita", "ROLE_MISSING", "PERMISSION_DENIED")
    assert set(one) == {
        *("seq", "time", "event", "principal", "serial", "roles", "method", "job", "peer", "status", "reason"),
        *("seconds", "call_id", "trace_id", "prev"),
    }
    assert not [entry for entry in log_guard if entry["event"] == "call"]


async def test_the_chain_goes_on_over_kills_and_rotations(pki: TestPki, tmp_path: Path) -> None:
    """Of the server, in the midst of calls; whoever rotates tells nobody. ``jobd audit verify`` finds it whole."""
    path = tmp_path / "audit.jsonl"
    files = [tmp_path / f"audit.jsonl.{number}" for number in range(4)]
    with (
        jobd_program(pki, tmp_path / "state", "--audit-log", str(path)) as program,
        trio.fail_after(SECONDS),
    ):
        for old in files:
            async with (
                JobClient.connect(program.server, **pki.credentials("alice")) as client,
                trio.open_nursery() as nursery,
            ):

                async def ask() -> None:
                    for _ in range(50):
                        await client.workers()

                for _ in range(4):
                    nursery.start_soon(ask)
                while not path.exists() or path.stat().st_size < 10_000:
                    await trio.sleep(0.001)
                pid = await trio.to_thread.run_sync(program.server_pid)
                program.kill_server()
                until_dead(pid)
                path.rename(old)
        os.kill(program.process.pid, signal.SIGTERM)
        await trio.to_thread.run_sync(program.process.wait)
    verdict = verify([*files, path])
    assert verdict.problems == []
    assert verdict.begins
    assert len(calls(path)) + verdict.lines > 4 * 200 * 0.9
    command = [sys.executable, "-m", "jobd", "audit", "verify", *map(str, [*files, path])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=SECONDS)
    assert done.stdout.endswith("whole\n")


async def test_one_that_cannot_be_made_is_said_at_the_start(pki: TestPki, tmp_path: Path) -> None:
    """Nothing was started."""
    with pytest.raises(ConfigError, match=r"the audit log .* cannot be used: No such file or directory"):
        await run(config_for(pki, tmp_path / "state", audit_log=tmp_path / "nowhere" / "audit"))
