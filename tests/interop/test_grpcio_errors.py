"""Statuses and their details, as a grpcio client reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from jobd.quota import Quota, QuotaPolicy
from tests.interop.conftest import Peer
from tests.interop.peer import grpcio_peer
from tests.support.daemon import running_daemon
from tests.support.pki import TestPki

NO_JOB = "00000000-0000-4000-8000-000000000000"


async def test_an_error_carries_error_info_in_its_trailer(peer: Peer) -> None:
    """grpc-status-details-bin is a google.rpc.Status with the same code and message, and one ErrorInfo."""
    async with peer() as client:
        outcome = await client.call("Query", {"job_id": NO_JOB})
    assert (outcome["code"], outcome["status_code"]) == ("NOT_FOUND", 5)
    assert outcome["status_message"] == outcome["message"]
    assert outcome["details"] == ["google.rpc.ErrorInfo"]
    assert (outcome["reason"], outcome["domain"]) == ("JOB_NOT_FOUND", "jobd")


async def test_a_stream_can_end_with_an_error_and_its_details(peer: Peer) -> None:
    """A streaming call carries the same details as a unary one."""
    async with peer() as client:
        job_id = await client.start("printf", "abc")
        await client.call("Wait", {"job_ids": [job_id]})
        seen = await client.stream(job_id, offset=4)
    assert (seen["code"], seen["reason"], seen["kinds"]) == ("OUT_OF_RANGE", "OFFSET_BEYOND_END", [])


async def test_a_bad_request_names_the_fields(peer: Peer) -> None:
    """INVALID_ARGUMENT has a google.rpc.BadRequest with every field that was refused."""
    async with peer() as client:
        outcome = await client.call("Start", {"spec": {"argv": ["true"], "cwd": "tmp", "name": "a\nb"}})
    assert outcome["code"] == "INVALID_ARGUMENT"
    assert sorted(outcome["details"]) == ["google.rpc.BadRequest", "google.rpc.ErrorInfo"]
    assert sorted(outcome["violations"]) == ["spec.cwd", "spec.name"]


async def test_a_message_of_any_script_arrives(peer: Peer) -> None:
    """grpc-message is percent-encoded and read back: quotes, percent signs and umlauts are as they were."""
    async with peer() as client:
        outcome = await client.call("Start", {"spec": {"argv": ["true"], "cwd": "100% größer"}})
    assert outcome["code"] == "INVALID_ARGUMENT"
    assert outcome["message"] == outcome["status_message"]
    assert "100% gr" in outcome["message"]


async def test_a_refusal_for_too_many_calls_says_when_to_try_again(stubs: Path, pki: TestPki, tmp_path: Path) -> None:
    """RESOURCE_EXHAUSTED has a google.rpc.RetryInfo beside its ErrorInfo; the channel goes on."""
    quota = QuotaPolicy(Quota(calls_per_second=0.5))
    async with (
        running_daemon(pki, tmp_path / "quotas", quota=quota) as server,
        grpcio_peer(stubs, pki, server) as client,
    ):
        first = await client.call("ListWorkers")
        outcome = await client.call("ListWorkers")
        await trio.sleep(outcome["retry_after"])
        after = await client.call("ListWorkers")
    assert (first["code"], outcome["code"], after["code"]) == ("OK", "RESOURCE_EXHAUSTED", "OK")
    assert outcome["details"] == ["google.rpc.ErrorInfo", "google.rpc.RetryInfo"]
    assert (outcome["reason"], outcome["metadata"]) == ("TOO_MANY_CALLS", {"callsPerSecond": "0.5"})
    assert 0 < outcome["retry_after"] <= 2


@pytest.mark.parametrize("method", ["Start", "Stop", "Signal", "Delete"])
async def test_a_reader_is_refused_what_changes_things(peer: Peer, method: str) -> None:
    """A reader's certificate gets PERMISSION_DENIED, with the role that is missing, before anything is looked at."""
    async with peer("rita") as client:
        outcome = await client.call(method)
    assert (outcome["code"], outcome["reason"]) == ("PERMISSION_DENIED", "ROLE_MISSING")
    assert outcome["metadata"] == {"needed": "writer"}


async def test_a_reader_may_read(peer: Peer) -> None:
    """A reader follows a job that a writer started."""
    async with peer() as writer, peer("rita") as reader:
        seen = await reader.stream(await writer.start("printf", "abc"))
    assert (seen["code"], seen["stdout"]["size"]) == ("OK", 3)


@pytest.mark.parametrize("path", ["/jobworker.v1.JobWorkerService/Nope", "/other.v1.Service/Query"])
async def test_an_unknown_method_is_unimplemented(peer: Peer, path: str) -> None:
    """UNIMPLEMENTED for a method, and for a service, that is not there; the channel goes on."""
    async with peer() as client:
        outcome = await client.ask("unknown", path=path)
        after = await client.call("ListWorkers")
    assert (outcome["code"], outcome["reason"]) == ("UNIMPLEMENTED", "UNKNOWN_METHOD")
    assert after["code"] == "OK"


async def test_a_compressed_request_is_unimplemented(peer: Peer) -> None:
    """gzip was not offered: gRPC's compression.md asks for UNIMPLEMENTED; the channel goes on."""
    async with peer() as client:
        outcome = await client.call("Start", {"spec": {"argv": ["true", "a" * 10_000]}}, gzip=True)
        after = await client.call("ListWorkers")
    assert (outcome["code"], after["code"]) == ("UNIMPLEMENTED", "OK")


@pytest.mark.parametrize("who", ["expired", "stranger"])
async def test_a_certificate_that_tls_refuses_gets_no_call(stubs: Path, pki: TestPki, server: str, who: str) -> None:
    """An expired certificate, or another CA's, ends in UNAVAILABLE, which is what gRPC says for a failed handshake."""
    async with grpcio_peer(stubs, pki, server, who) as client:
        outcome = await client.call("ListWorkers")
    assert outcome["code"] == "UNAVAILABLE"
