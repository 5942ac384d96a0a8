"""How calls and connections end, seen from a grpcio client: deadlines, cancellation, many at once, GOAWAY."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import trio

from tests.interop.conftest import AuditLog, Peer
from tests.interop.peer import grpcio_peer
from tests.support.daemon import jobd_program
from tests.support.patience import patient
from tests.support.pki import TestPki

SLEEP = ("sleep", "1000")
FOLLOWERS = 50


async def test_the_callers_deadline_ends_the_handler(peer: Peer, audit_log: AuditLog) -> None:
    """Wait for a job that goes on, with a deadline: DEADLINE_EXCEEDED, and the server's handler ends too."""
    async with peer() as client:
        job_id = await client.start(*SLEEP)
        outcome = await client.call("Wait", {"job_ids": [job_id]}, timeout=0.2)
        line = await audit_log.line("Wait")
        job = (await client.call("Query", {"job_id": job_id}))["response"]["job"]
    assert outcome["code"] == "DEADLINE_EXCEEDED"
    # grpcio resets the stream when its own clock says so: that, or the server's clock, is first. (The server's alone:
    # tests/unit/api/test_session.py.)
    assert line["status"] in ("DEADLINE_EXCEEDED", "CANCELLED")
    assert job["state"] == "JOB_STATE_RUNNING"


async def test_a_cancelled_stream_ends_its_handler(peer: Peer, audit_log: AuditLog) -> None:
    """The handler of a stream that the caller gave up ends, while the job and the connection go on."""
    async with peer() as client:
        job_id = await client.start("sh", "-c", "echo first; exec sleep 1000")
        handle = await client.begin("Stream", {"job_id": job_id})
        first = await client.ask("next", handle=handle)
        cancelled = await client.ask("cancel", handle=handle)
        line = await audit_log.line("Stream")
        job = (await client.call("Query", {"job_id": job_id}))["response"]["job"]
    assert first["output"]["data"] == "Zmlyc3QK"
    assert cancelled["code"] == "CANCELLED"
    assert (line["status"], line["job"], job["state"]) == ("CANCELLED", job_id, "JOB_STATE_RUNNING")


async def test_fifty_streams_share_one_channel(peer: Peer, audit_log: AuditLog) -> None:
    """All of them are open at once on one connection, and all get the same bytes."""
    async with peer() as client:
        job_id = await client.start("sh", "-c", "trap 'seq 20000; exit' USR1; echo first; while :; do sleep 0.02; done")
        handles = [await client.begin("Stream", {"job_id": job_id}, timeout=patient(60)) for _ in range(FOLLOWERS)]
        for handle in handles:
            await client.ask("next", handle=handle)  # this one is open, and has the first line
        await client.call("Signal", {"job_id": job_id, "signal": signal.SIGUSR1})
        seen = [await client.ask("rest", handle=handle) for handle in handles]
        peers = {(await audit_log.line("Stream"))["peer"] for _ in handles}
    assert Counter(each["code"] for each in seen) == {"OK": FOLLOWERS}
    assert {each["stdout"]["size"] for each in seen} == {sum(len(f"{n}\n") for n in range(1, 20001))}
    assert len({each["stdout"]["sha256"] for each in seen}) == 1
    assert len(peers) == 1


async def test_one_connection_serves_call_after_call(peer: Peer, audit_log: AuditLog) -> None:
    """Late frames for a stream that has ended (RFC 9113, 5.1) do not cost the connection: no call needs a new one."""
    rounds = 20
    async with peer() as client:
        for _ in range(rounds):
            await client.stream(await client.start("true"))
        peers = {(await audit_log.line("Start", "Stream"))["peer"] for _ in range(2 * rounds)}
    assert len(peers) == 1


async def test_a_short_call_does_not_disturb_a_long_one(peer: Peer) -> None:
    """A stream that is open stays so while other calls on the channel begin and end."""
    async with peer() as client:
        job_id = await client.start("sh", "-c", "echo first; exec sleep 1000")
        handle = await client.begin("Stream", {"job_id": job_id}, timeout=patient(60))
        await client.ask("next", handle=handle)
        for _ in range(50):
            await client.call("Query", {"job_id": job_id})
        await client.call("Stop", {"job_id": job_id})
        rest = await client.ask("rest", handle=handle)
    assert (rest["code"], rest["kinds"]) == ("OK", ["verdict"])


async def test_a_wait_ends_when_the_daemon_does(stubs: Path, pki: TestPki, tmp_path: Path) -> None:
    """SIGTERM to jobd: an open Wait, which could last, gets UNAVAILABLE at once; the client asks the next one."""
    with jobd_program(pki, tmp_path / "state") as jobd:
        async with grpcio_peer(stubs, pki, jobd.server) as client:
            job_id = await client.start(*SLEEP)
            handle = await client.begin("Wait", {"job_ids": [job_id]})
            await client.call("Query", {"job_id": job_id})  # sent after the Wait: that one is at the server
            jobd.process.send_signal(signal.SIGTERM)
            outcome = await client.ask("finish", handle=handle)
            exit_code = await trio.to_thread.run_sync(jobd.process.wait, 20)
    assert (outcome["code"], exit_code) == ("UNAVAILABLE", 0)


async def test_goaway_lets_an_open_call_end_well(stubs: Path, pki: TestPki, tmp_path: Path) -> None:
    """After SIGTERM the client is told to leave (GOAWAY), and a Stop that ends in time still has its answer."""
    gate, deaf = tmp_path / "gate", tmp_path / "deaf"
    with jobd_program(pki, tmp_path / "state", "--shutdown", "20") as jobd:
        async with grpcio_peer(stubs, pki, jobd.server) as client:
            trap = f"trap 'until [ -e {gate} ]; do sleep 0.02; done; exit 0' TERM"
            job_id = await client.start("sh", "-c", f"{trap}; touch {deaf}; while :; do sleep 0.02; done")
            while not deaf.exists():
                await trio.sleep(0.01)
            handle = await client.begin("Stop", {"job_id": job_id, "grace_period": "20s"})
            await client.call("Query", {"job_id": job_id})  # sent after the Stop: that one is at the server
            await client.ask("watch")
            jobd.process.send_signal(signal.SIGTERM)
            left = await client.ask("left")
            gate.touch()
            outcome = await client.ask("finish", handle=handle)
    assert left["left"], left
    assert outcome["code"] == "OK", outcome
    assert outcome["response"]["job"]["state"] == "JOB_STATE_STOPPED"
