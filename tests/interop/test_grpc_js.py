"""jobd and grpc-js (Node.js): a third client of gRPC that is not ours, on an HTTP/2 of its own."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.interop.conftest import AuditLog
from tests.interop.stubs import ROOT
from tests.support.daemon import jobd_program
from tests.support.patience import patient
from tests.support.pki import TestPki

HERE = Path(__file__).parent / "node"
PATIENCE = patient(60.0)
MIB = 1024 * 1024
OK, CANCELLED, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND = 0, 1, 3, 4, 5
PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNAVAILABLE = 7, 8, 14

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not (HERE / "node_modules" / "@grpc" / "grpc-js").is_dir(),
    reason="Node.js is not installed, or grpc-js: npm ci in tests/interop/node",
)


def command(scenario: str, server: str, pki: TestPki, who: str) -> list[str]:
    files = [str(path) for path in pki.credentials(who).values()]
    return ["node", str(HERE / "client.js"), scenario, server, *files, str(ROOT / "api" / "proto")]


async def play(scenario: str, server: str, pki: TestPki, who: str = "alice") -> Any:
    """Have a scenario of client.js played; what it found."""
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(command(scenario, server, pki, who), capture_stdout=True)
    return json.loads(done.stdout)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_the_main_job(server: str, pki: TestPki) -> None:
    """Start, Wait, Stream, Query, List."""
    found = await play("calls", server, pki)
    [job] = found["waited"]["response"]["jobs"]
    assert (job["state"], job["exit_code"]) == ("JOB_STATE_FAILED", 3)
    assert (found["streamed"]["code"], found["streamed"]["size"]) == (OK, 8)
    assert found["streamed"]["kinds"] == ["output", "verdict"]
    assert found["streamed"]["verdict"]["exit_code"] == 3
    assert found["queried"]["response"]["job"]["id"] == job["id"]
    assert [each["id"] for each in found["listed"]["response"]["jobs"]] == [job["id"]]


async def test_large_messages(server: str, pki: TestPki) -> None:
    """In both directions, through many windows; one that is too large is refused, and the connection goes on."""
    found = await play("large", server, pki)
    assert (found["echoed"]["code"], found["echoed"]["sha256"]) == (OK, sha256(b"x" * 1_000_000))
    assert (found["written"]["code"], found["written"]["sha256"]) == (OK, sha256(bytes(64 * MIB)))
    assert found["refused"]["code"] == RESOURCE_EXHAUSTED


async def test_both_sides_speak(server: str, pki: TestPki) -> None:
    """Attach: what is written to stdin comes back, and the verdict last."""
    found = await play("attach", server, pki)
    assert (found["code"], found["kinds"][-1]) == (OK, "verdict")
    assert found["sha256"] == sha256(b"0" * 100_000 + b"1" * 100_000 + b"2" * 100_000)


async def test_a_cancelled_call_ends_here_too(server: str, pki: TestPki, audit_log: AuditLog) -> None:
    """The handler ends; the job and the connection go on."""
    found = await play("cancel", server, pki)
    assert found["ended"]["code"] == CANCELLED
    assert found["queried"]["response"]["job"]["state"] == "JOB_STATE_RUNNING"
    assert (await audit_log.line("Stream"))["status"] == "CANCELLED"


async def test_a_deadline_ends_a_call(server: str, pki: TestPki, audit_log: AuditLog) -> None:
    """On both sides."""
    found = await play("deadline", server, pki)
    assert found["waited"]["code"] == DEADLINE_EXCEEDED
    assert found["queried"]["code"] == OK
    assert (await audit_log.line("Wait"))["status"] in ("DEADLINE_EXCEEDED", "CANCELLED")


async def test_refusals_have_their_codes_and_details(server: str, pki: TestPki) -> None:
    """A reader who starts, a job that is not there, a request that makes no sense."""
    found = await play("refused", server, pki, "rita")
    assert {name: each["code"] for name, each in found.items()} == {
        "start": PERMISSION_DENIED,
        "query": NOT_FOUND,
        "bad": INVALID_ARGUMENT,
    }
    assert {each["details"] for each in found.values()} == {1}


async def test_keepalive_pings_keep_a_quiet_stream(server: str, pki: TestPki) -> None:
    """Ten a second cost nobody a connection."""
    found = await play("keepalive", server, pki)
    assert (found["code"], found["size"], found["kinds"][-1]) == (OK, 5, "verdict")


async def test_goaway_and_another_connection(pki: TestPki, tmp_path: Path) -> None:
    """A server that leaves for an upgrade: an open Wait is UNAVAILABLE, and the next call finds the new server."""
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(PATIENCE):
        client = await trio.lowlevel.open_process(command("goaway", jobd.server, pki, "alice"), stdout=subprocess.PIPE)
        async with client.stdout:
            assert await client.stdout.receive_some() == b"waiting\n"
            jobd.process.send_signal(signal.SIGHUP)
            said = b"".join([data async for data in client.stdout])
        await client.wait()
    found = json.loads(said)
    assert found["waited"]["code"] == UNAVAILABLE
    assert found["again"]["response"]["job"]["state"] == "JOB_STATE_RUNNING"
