"""jobd's RPC path, and grpcio: what the contract has no method for, and what goes on when nobody says anything."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trio

from api.errors import InvalidArgumentError
from api.messages import QueryRequest, QueryResponse
from api.methods import BY_PATH, Cardinality, Method
from api.roles import Role
from api.rpc.server import ServerCall, router
from tests.interop.peer import grpcio_peer
from tests.support.daemon import open_daemon
from tests.support.patience import patient
from tests.support.pki import TestPki
from tests.support.serving import serving

UPLOAD = Method("test.v1.Uploads", "Count", QueryRequest, QueryResponse, Cardinality.STREAM_STREAM, Role.WRITER)
PING_FRAME = 17
"""Bytes, with its header."""


async def count(call: ServerCall) -> None:
    """One answer to many requests, when they have ended."""
    sizes = []
    while (request := await call.receive_next()) is not None:
        assert isinstance(request, QueryRequest)
        if request.job_id == "refused":
            raise InvalidArgumentError("no more of this", reason="ENOUGH")
        sizes.append(len(request.job_id))
    await call.answer(f"{len(sizes)} {sum(sizes)}".encode())


def wire(job_id: str) -> str:
    """A QueryRequest as text, for a job id whose length takes two bytes."""
    size = len(job_id)
    return "\n" + (chr(size) if size < 128 else "") + job_id


async def test_client_streaming(stubs: Path, pki: TestPki, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fourth cardinality: no method of the contract has it, so a service of this test does. Many requests, none,
    and a refusal before the last one."""
    monkeypatch.setitem(BY_PATH, UPLOAD.path, UPLOAD)
    async with (
        serving(pki, router({UPLOAD.path: count})) as port,
        grpcio_peer(stubs, pki, f"localhost:{port}") as client,
    ):
        many = await client.ask("upload", path=UPLOAD.path, messages=[wire("x" * (n % 100)) for n in range(1000)])
        none = await client.ask("upload", path=UPLOAD.path, messages=[])
        bad = await client.ask("upload", path=UPLOAD.path, messages=[wire("a"), wire("refused"), wire("b")])
    assert (many["code"], many["answer"]) == ("OK", f"1000 {sum(n % 100 for n in range(1000))}")
    assert (none["code"], none["answer"]) == ("OK", "0 0")
    assert (bad["code"], bad["reason"]) == ("INVALID_ARGUMENT", "ENOUGH")


async def test_keepalive_pings_keep_a_quiet_stream(stubs: Path, pki: TestPki, tmp_path: Path) -> None:
    """Ten a second are answered, and cost nobody a connection: while they come, nothing else does."""
    async with open_daemon(pki, tmp_path / "state") as daemon:
        server = daemon.address.replace("127.0.0.1", "localhost")
        async with grpcio_peer(stubs, pki, server, ping=100) as client:
            job_id = await client.start(
                "sh", "-c", "trap 'echo last; exit' USR1; echo first; while :; do sleep 0.02; done"
            )
            handle = await client.begin("Stream", {"job_id": job_id}, timeout=patient(60))
            await client.ask("next", handle=handle)
            before = daemon.connections.statistics().received
            with trio.fail_after(patient(60)):
                while daemon.connections.statistics().received < before + 10 * PING_FRAME:
                    await trio.sleep(0.01)
            await client.call("Signal", {"job_id": job_id, "signal": signal.SIGUSR1})
            rest = await client.ask("rest", handle=handle)
        found = daemon.connections.statistics()
    # In whatever pieces; and a shell whose child the signal ends says so on stderr.
    assert (rest["code"], rest["kinds"][-1], rest["stdout"]["size"]) == ("OK", "verdict", len("last\n"))
    assert (found.connections_served, found.sent_away, found.broke_protocol) == (1, 0, 0)
