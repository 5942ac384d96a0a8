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

from api.methods import METHODS
from tests.interop.stubs import PROTO
from tests.support.patience import patient
from tests.support.pki import TestPki

BUF = shutil.which("buf", path=str(Path(sys.executable).parent)) or shutil.which("buf")
pytestmark = pytest.mark.skipif(BUF is None, reason="the program buf is not installed (dependency group proto)")


class Curl(Protocol):
    async def __call__(self, method: str, request: dict[str, Any]) -> list[dict[str, Any]]: ...


class Buf(Protocol):
    async def __call__(self, *arguments: str, who: str = "alice") -> tuple[int, str]: ...


@pytest.fixture
def buf(pki: TestPki, tmp_path: Path) -> Buf:
    """Run ``buf curl`` as one of the test clients; gives its exit code, and what it wrote."""
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}

    async def buf(*arguments: str, who: str = "alice") -> tuple[int, str]:
        me = pki.credentials(who)
        files = ["--cacert", str(me["ca"]), "--cert", str(me["cert"]), "--key", str(me["key"])]
        with trio.fail_after(patient(60)):
            done = await trio.run_process(
                [str(BUF), "curl", "--protocol", "grpc", *files, *arguments],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=environment,
                stdin=subprocess.DEVNULL,
            )
        return done.returncode, (done.stdout if done.returncode == 0 else done.stderr).decode()

    return buf


@pytest.fixture
def curl(buf: Buf, server: str) -> Curl:
    """Make a call with buf; gives the answers."""

    async def curl(method: str, request: dict[str, Any]) -> list[dict[str, Any]]:
        url = f"https://{server}/jobworker.v1.JobWorkerService/{method}"
        return _objects((await buf("--schema", str(PROTO), "-d", json.dumps(request), url))[1])

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


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_buf_learns_the_methods_from_the_server(buf: Buf, server: str, version: str) -> None:
    """A reader can list them all by either version of reflection, and no .proto file is needed to call one."""
    by_reflection = ("--reflect-protocol", f"grpc-{version}")
    code, listed = await buf(*by_reflection, "--list-methods", f"https://{server}", who="rita")
    assert (code, set(listed.split())) == (0, {method.path.removeprefix("/") for method in METHODS})
    url = f"https://{server}/jobworker.v1.JobWorkerService/ListWorkers"
    code, answer = await buf(*by_reflection, "-d", "{}", url, who="rita")
    assert code == 0, answer
    assert [worker["slots"] for worker in json.loads(answer)["workers"]] == [64]


async def test_who_has_no_role_learns_nothing(buf: Buf, server: str) -> None:
    """Reflection is refused like any other call."""
    code, error = await buf("--list-methods", f"https://{server}", who="nobody")
    assert code != 0
    assert "nobody has no role here" in error


async def test_buf_says_in_which_trace_it_calls(buf: Buf, server: str) -> None:
    """As any client of gRPC does, in metadata."""
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    url = f"https://{server}/jobworker.v1.JobWorkerService/Start"
    request = json.dumps({"spec": {"argv": ["true"]}})
    code, answer = await buf("-H", f"traceparent: {parent}", "-d", request, url)
    assert (code, json.loads(answer)["job"]["traceparent"]) == (0, parent)
