"""Every RPC, called by a client that gRPC's own tools made of the contract."""

from __future__ import annotations

import hashlib

from tests.interop.conftest import Peer

SLEEP = ("sleep", "1000")


def digest(data: bytes) -> dict[str, object]:
    """What the peer says of bytes that it received."""
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


async def test_start_answers_with_the_job(peer: Peer) -> None:
    """Start gives the whole job: spec as sent, who started it, a process."""
    spec = {"argv": ["sleep", "1000"], "name": "näme", "env": {"A": "1"}, "cwd": "/tmp"}
    async with peer() as client:
        outcome = await client.call("Start", {"spec": spec})
    job = outcome["response"]["job"]
    assert outcome["code"] == "OK"
    assert spec.items() <= job["spec"].items()
    assert (job["state"], job["started_by"]) == ("JOB_STATE_RUNNING", "alice")
    assert job["pid"] > 1
    assert job["created_at"] <= job["started_at"]


async def test_stop_answers_when_the_job_has_ended(peer: Peer) -> None:
    """Stop, with a grace period of its own, gives the job as it ended."""
    async with peer() as client:
        job_id = await client.start(*SLEEP)
        outcome = await client.call("Stop", {"job_id": job_id, "grace_period": "0s"})
    job = outcome["response"]["job"]
    assert outcome["code"] == "OK"
    assert (job["state"], job["signal"], job["stopped_by"]) == ("JOB_STATE_STOPPED", 9, "alice")


async def test_signal_reaches_the_process(peer: Peer) -> None:
    """A signal sent is the signal that the process gets."""
    async with peer() as client:
        job_id = await client.start(
            "sh", "-c", "trap 'echo got it; exit 3' USR1; echo ready; while :; do sleep 0.02; done"
        )
        handle = await client.begin("Stream", {"job_id": job_id})
        await client.ask("next", handle=handle)  # the trap is set
        outcome = await client.call("Signal", {"job_id": job_id, "signal": 10})
        rest = await client.ask("rest", handle=handle)
    assert outcome["code"] == "OK"
    assert rest["stdout"] == digest(b"got it\n")
    assert rest["verdict"]["exit_code"] == 3


async def test_delete_forgets_an_ended_job(peer: Peer) -> None:
    """Then it is NOT_FOUND."""
    async with peer() as client:
        job_id = await client.start("true")
        await client.call("Wait", {"job_ids": [job_id]})
        outcome = await client.call("Delete", {"job_id": job_id})
        after = await client.call("Query", {"job_id": job_id})
    assert (outcome["code"], after["code"]) == ("OK", "NOT_FOUND")


async def test_query_tells_of_a_job_by_prefix(peer: Peer) -> None:
    """Query finds a job by the first characters of its id."""
    async with peer() as client:
        job_id = await client.start(*SLEEP)
        outcome = await client.call("Query", {"job_id": job_id[:8]})
    assert outcome["code"] == "OK"
    assert outcome["response"]["job"]["id"] == job_id


async def test_stream_gives_every_byte_and_then_the_verdict(peer: Peer) -> None:
    """Both outputs arrive byte for byte, with offsets without a gap, and the verdict is the last message."""
    async with peer() as client:
        job_id = await client.start("sh", "-c", r"printf 'a\0\377 no newline'; printf oops >&2; exit 7")
        seen = await client.stream(job_id)
    assert (seen["code"], seen["gaps"]) == ("OK", 0)
    assert (seen["stdout"], seen["stderr"]) == (digest(b"a\0\xff no newline"), digest(b"oops"))
    assert (seen["verdict"]["state"], seen["verdict"]["exit_code"]) == ("JOB_STATE_FAILED", 7)
    assert seen["verdict"]["end_offset"] == "18"
    assert (seen["kinds"].count("verdict"), seen["kinds"][-1]) == (1, "verdict")


async def test_stream_begins_at_an_offset(peer: Peer) -> None:
    """The oneof with an offset is understood."""
    async with peer() as client:
        job_id = await client.start("printf", "0123456789")
        await client.call("Wait", {"job_ids": [job_id]})
        seen = await client.stream(job_id, offset=7)
    assert seen["stdout"] == digest(b"789")


async def test_list_gives_each_job_once_page_by_page(peer: Peer) -> None:
    """Pages of two, newest first, until the token is empty, are all jobs."""
    async with peer() as client:
        started = [await client.start("true") for _ in range(5)]
        token = ""
        pages: list[list[str]] = []
        while not pages or token:
            page = (await client.call("List", {"page_size": 2, "page_token": token}))["response"]
            pages.append([job["id"] for job in page["jobs"]])
            token = page["next_page_token"]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [job for page in pages for job in page] == started[::-1]


async def test_list_keeps_to_the_states_asked_for(peer: Peer) -> None:
    """A repeated enum (packed on the wire) is understood."""
    async with peer() as client:
        running = await client.start(*SLEEP)
        ended = await client.start("false")
        await client.call("Wait", {"job_ids": [ended]})
        outcome = await client.call("List", {"states": ["JOB_STATE_RUNNING", "JOB_STATE_LOST"]})
    assert [job["id"] for job in outcome["response"]["jobs"]] == [running]


async def test_wait_for_any_answers_at_the_first_end(peer: Peer) -> None:
    """WAIT_MODE_ANY answers while another job runs; the jobs come in the order asked for."""
    async with peer() as client:
        running, ended = await client.start(*SLEEP), await client.start("true")
        outcome = await client.call("Wait", {"job_ids": [running, ended], "mode": "WAIT_MODE_ANY"})
    states = [(job["id"], job["state"]) for job in outcome["response"]["jobs"]]
    assert states == [(running, "JOB_STATE_RUNNING"), (ended, "JOB_STATE_SUCCEEDED")]


async def test_list_workers_shows_who_runs_what(peer: Peer) -> None:
    """The workers come with the jobs that they run."""
    async with peer() as client:
        job_id = await client.start(*SLEEP)
        outcome = await client.call("ListWorkers")
    (worker,) = outcome["response"]["workers"]
    assert (worker["slots"], worker["containment"].split()[0] in ("cgroup", "none")) == (64, True)
    assert [job["id"] for job in worker["jobs"]] == [job_id]
