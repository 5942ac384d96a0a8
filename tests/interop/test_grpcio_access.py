"""What a grpcio client sees when its certificate is not good any more."""

from __future__ import annotations

from pathlib import Path

import trio

from tests.interop.conftest import AuditLog
from tests.interop.peer import PATIENCE, grpcio_peer
from tests.support.daemon import running_daemon
from tests.support.live_pki import LivePki


async def test_a_revoked_client_sees_unauthenticated(stubs: Path, tmp_path: Path, audit_log: AuditLog) -> None:
    """In a stream, in a Wait and in an attachment that are open, in the next call, and on a new channel; with its
    details."""
    ours = LivePki.grow(tmp_path / "pki")
    with trio.fail_after(PATIENCE):
        async with running_daemon(ours, tmp_path / "state", crl=ours.crl) as server:
            async with grpcio_peer(stubs, ours, server) as client:
                spec = {"argv": ["sh", "-c", "echo here; exec sleep 1000"], "stdin": "STDIN_MODE_PIPE"}
                started = await client.call("Start", {"spec": spec})
                job_id = started["response"]["job"]["id"]
                stream = await client.begin("Stream", {"job_id": job_id})
                await client.ask("next", handle=stream)
                wait = await client.begin("Wait", {"job_ids": [job_id]})
                attached = (await client.ask("converse", method="Attach"))["handle"]
                request = {"start": {"job_id": job_id}}
                await client.ask("say", handle=attached, method="Attach", request=request)
                await client.ask("next", handle=attached)
                ours.revoke("alice")
                ends = [
                    await client.ask("rest", handle=stream),
                    await client.ask("finish", handle=wait),
                    await client.ask("rest", handle=attached),
                    await client.call("Query", {"job_id": job_id}),
                ]
            async with grpcio_peer(stubs, ours, server) as client:
                ends.append(await client.call("Query", {"job_id": job_id}))
            assert [(end["code"], end["reason"]) for end in ends] == [("UNAUTHENTICATED", "CERTIFICATE_REVOKED")] * 5
            line = await audit_log.line("Stream")
            assert (line["status"], line["reason"]) == ("UNAUTHENTICATED", "CERTIFICATE_REVOKED")
