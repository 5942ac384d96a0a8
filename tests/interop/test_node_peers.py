"""jobd, and grpc-js and connect-node: clients of gRPC that are not ours, on the HTTP/2 of Node.js."""

from __future__ import annotations

import hashlib
import json
import os
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

PEERS = {"grpc_js": "@grpc/grpc-js", "connect_node": "@connectrpc/connect-node"}
"""By their modules in ``node``."""


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest) -> str:
    package = PEERS[request.param]
    if shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    if not (HERE / "node_modules" / package).is_dir():
        missing = f"{package} is not installed: npm ci in tests/interop/node"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(missing)  # there it is to be had, and a skip would be taken for a run
        pytest.skip(missing)
    return str(request.param)


def command(peer: str, scenario: str, server: str, pki: TestPki, who: str) -> list[str]:
    files = [str(path) for path in pki.credentials(who).values()]
    contract = [str(ROOT / "api" / "proto"), str(ROOT / "api" / "_generated" / "descriptors.binpb")]
    return ["node", str(HERE / "client.js"), peer, scenario, server, *files, *contract]


async def play(peer: str, scenario: str, server: str, pki: TestPki, who: str = "alice") -> Any:
    """Have a scenario of client.js played; what it found."""
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(command(peer, scenario, server, pki, who), capture_stdout=True)
    return json.loads(done.stdout)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_the_main_job(peer: str, server: str, pki: TestPki) -> None:
    """Start, Wait, Stream, Query, List."""
    found = await play(peer, "calls", server, pki)
    [job] = found["waited"]["response"]["jobs"]
    assert (job["state"], job["exit_code"]) == ("JOB_STATE_FAILED", 3)
    assert (found["streamed"]["code"], found["streamed"]["size"]) == (OK, 8)
    assert found["streamed"]["kinds"] == ["output", "verdict"]
    assert found["streamed"]["verdict"]["exit_code"] == 3
    assert found["queried"]["response"]["job"]["id"] == job["id"]
    assert [each["id"] for each in found["listed"]["response"]["jobs"]] == [job["id"]]


async def test_large_messages(peer: str, server: str, pki: TestPki) -> None:
    """In both directions, through many windows; one that is too large is refused, and the connection goes on."""
    found = await play(peer, "large", server, pki)
    assert (found["echoed"]["code"], found["echoed"]["sha256"]) == (OK, sha256(b"x" * 1_000_000))
    assert (found["written"]["code"], found["written"]["sha256"]) == (OK, sha256(bytes(64 * MIB)))
    assert found["refused"]["code"] == RESOURCE_EXHAUSTED


async def test_both_sides_speak(peer: str, server: str, pki: TestPki) -> None:
    """Attach: what is written to stdin comes back, and the verdict last."""
    found = await play(peer, "attach", server, pki)
    assert (found["code"], found["kinds"][-1]) == (OK, "verdict")
    assert found["sha256"] == sha256(b"0" * 100_000 + b"1" * 100_000 + b"2" * 100_000)


async def test_a_cancelled_call_ends_here_too(peer: str, server: str, pki: TestPki, audit_log: AuditLog) -> None:
    """The handler ends; the job and the connection go on."""
    found = await play(peer, "cancel", server, pki)
    assert found["ended"]["code"] == CANCELLED
    assert found["queried"]["response"]["job"]["state"] == "JOB_STATE_RUNNING"
    assert (await audit_log.line("Stream"))["status"] == "CANCELLED"


async def test_a_deadline_ends_a_call(peer: str, server: str, pki: TestPki, audit_log: AuditLog) -> None:
    """On both sides."""
    found = await play(peer, "deadline", server, pki)
    assert found["waited"]["code"] == DEADLINE_EXCEEDED
    assert found["queried"]["code"] == OK
    assert (await audit_log.line("Wait"))["status"] in ("DEADLINE_EXCEEDED", "CANCELLED")


async def test_refusals_have_their_codes_and_details(peer: str, server: str, pki: TestPki) -> None:
    """A reader who starts, a job that is not there, a request that makes no sense."""
    found = await play(peer, "refused", server, pki, "rita")
    assert {name: each["code"] for name, each in found.items()} == {
        "start": PERMISSION_DENIED,
        "query": NOT_FOUND,
        "bad": INVALID_ARGUMENT,
    }
    assert all(each["detailed"] for each in found.values())


async def test_keepalive_pings_keep_a_quiet_stream(peer: str, server: str, pki: TestPki) -> None:
    """Ten a second cost nobody a connection."""
    found = await play(peer, "keepalive", server, pki)
    assert (found["code"], found["size"], found["kinds"][-1]) == (OK, 5, "verdict")


async def test_goaway_and_another_connection(peer: str, pki: TestPki, tmp_path: Path) -> None:
    """A server that leaves for an upgrade: an open Wait is UNAVAILABLE, and the next call finds the new server. (A
    client that hears of both only when the connection has ended, too, as on a busy machine, may say CANCELLED.)"""
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(PATIENCE):
        for _ in range(5):
            client = await trio.lowlevel.open_process(
                command(peer, "goaway", jobd.server, pki, "alice"), stdout=subprocess.PIPE
            )
            async with client.stdout:
                assert await client.stdout.receive_some() == b"waiting\n"
                jobd.process.send_signal(signal.SIGHUP)
                said = b"".join([data async for data in client.stdout])
            await client.wait()
            found = json.loads(said)
            assert found["again"]["response"]["job"]["state"] == "JOB_STATE_RUNNING"
            if found["waited"]["code"] != CANCELLED:
                break
    assert found["waited"]["code"] == UNAVAILABLE
