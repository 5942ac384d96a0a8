"""A second peer that is not ours: ``buf curl``, gRPC in Go, with the .proto files themselves as its schema."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

import pytest
import trio

from tests.interop.stubs import PROTO
from tests.support.pki import TestPki

BUF = shutil.which("buf", path=str(Path(sys.executable).parent)) or shutil.which("buf")
pytestmark = pytest.mark.skipif(BUF is None, reason="the program buf is not installed (dependency group proto)")


class Curl(Protocol):
    async def __call__(self, method: str, request: dict[str, Any]) -> list[dict[str, Any]]: ...


@pytest.fixture
def curl(pki: TestPki, server: str, tmp_path: Path) -> Curl:
    """Make a call with buf; gives the answers."""
    files = ["--cacert", str(pki.ca), "--cert", str(pki.certificate("alice")), "--key", str(pki.key("alice"))]
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}

    async def curl(method: str, request: dict[str, Any]) -> list[dict[str, Any]]:
        url = f"https://{server}/jobworker.v1.JobWorkerService/{method}"
        command = [
            str(BUF),
            "curl",
            "--protocol",
            "grpc",
            "--schema",
            str(PROTO),
            *files,
            "-d",
            json.dumps(request),
            url,
        ]
        with trio.fail_after(60):
            done = await trio.run_process(
                command,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=environment,
                stdin=subprocess.DEVNULL,
            )
        return _objects((done.stdout if done.returncode == 0 else done.stderr).decode())

    return curl


def _objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects that stand one after another."""
    found, decoder, text = [], json.JSONDecoder(), text.strip()
    while text:
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:].lstrip()
    return found


async def test_buf_starts_and_queries_a_job(curl: Curl) -> None:
    """Start and Query over grpc-go's HTTP/2 give the same job."""
    (started,) = await curl("Start", {"spec": {"argv": ["sleep", "1000"]}})
    (queried,) = await curl("Query", {"jobId": started["job"]["id"]})
    assert started["job"]["state"] == "JOB_STATE_RUNNING"
    assert queried["job"]["id"] == started["job"]["id"]


async def test_buf_streams_output_and_verdict(curl: Curl) -> None:
    """Stream over grpc-go's HTTP/2 gives every byte, and the verdict last."""
    (started,) = await curl("Start", {"spec": {"argv": ["seq", "10000"]}})
    *pieces, last = await curl("Stream", {"jobId": started["job"]["id"]})
    data = b"".join(base64.b64decode(piece["output"]["data"]) for piece in pieces)
    assert data == b"".join(b"%d\n" % n for n in range(1, 10001))
    assert last["verdict"]["state"] == "JOB_STATE_SUCCEEDED"


async def test_buf_shows_an_error_with_its_details(curl: Curl) -> None:
    """A status and its ErrorInfo are understood by gRPC for Go."""
    (error,) = await curl("Query", {"jobId": "00000000-0000-4000-8000-000000000000"})
    assert error["code"] == "not_found"
    assert [detail["type"] for detail in error["details"]] == ["google.rpc.ErrorInfo"]
