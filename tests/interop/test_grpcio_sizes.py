"""Large and too large messages, and a lot of output, between jobd and a grpcio client with gRPC's usual limits."""

from __future__ import annotations

import hashlib
import sys
from random import Random
from typing import Any, Final

from tests.interop.conftest import Peer

MIB: Final = 1024 * 1024
PIECES: Final = 32
WRITER: Final = f"""
import random, sys
data = random.Random(7)
for _ in range({PIECES}): sys.stdout.buffer.write(data.randbytes({MIB}))
"""


def request_of(size: int) -> dict[str, Any]:
    """A StartRequest with an argument that the kernel does not take."""
    return {"spec": {"argv": ["true", "x" * size]}}


async def test_a_request_of_half_a_mebibyte_arrives_whole(peer: Peer) -> None:
    """It is taken over many DATA frames, and so is the answer with all of it."""
    request = request_of(MIB // 2)
    async with peer() as client:
        outcome = await client.call("Start", request)
    job = outcome["response"]["job"]
    assert outcome["code"] == "OK"
    assert (job["state"], job["reason"]) == ("JOB_STATE_START_FAILED", "ARGUMENTS_TOO_LONG")
    assert job["spec"]["argv"] == request["spec"]["argv"]


async def test_a_spec_over_its_limit_is_refused_by_field(peer: Peer) -> None:
    """Though the message is below the limit on messages: a job must fit into every answer."""
    async with peer() as client:
        outcome = await client.call("Start", request_of(3 * MIB))
    assert (outcome["code"], outcome["reason"]) == ("INVALID_ARGUMENT", "INVALID_SPEC")


async def test_a_message_over_the_limit_is_refused_and_the_channel_goes_on(peer: Peer) -> None:
    """RESOURCE_EXHAUSTED each time, however much more that is than the connection's window; then a call as usual."""
    async with peer() as client:
        outcomes = [await client.call("Start", request_of(5 * MIB)) for _ in range(6)]
        after = await client.call("ListWorkers")
    assert {(each["code"], each.get("reason")) for each in outcomes} == {("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")}
    assert outcomes[0]["metadata"]["limit"] == str(4 * MIB)
    assert after["code"] == "OK"


async def test_a_page_of_large_jobs_is_a_message_that_clients_take(peer: Peer) -> None:
    """Lists show an abridged spec; Query shows all of it."""
    request = request_of(1_000_000)
    async with peer() as client:
        for _ in range(8):
            await client.call("Start", request)
        page = await client.call("List")
        jobs = page["response"]["jobs"]
        whole = await client.call("Query", {"job_id": jobs[0]["id"]})
    assert len(jobs) == 8
    assert all(job["abridged"] and len("".join(job["spec"]["argv"])) == 1024 for job in jobs)
    assert whole["response"]["job"]["spec"]["argv"] == request["spec"]["argv"]


async def test_much_output_arrives_byte_for_byte(peer: Peer) -> None:
    """32 MiB that do not compress, by their hash, with offsets without a gap, from a job that runs meanwhile."""
    expected = hashlib.sha256()
    data = Random(7)
    for _ in range(PIECES):
        expected.update(data.randbytes(MIB))
    async with peer() as client:
        seen = await client.stream(await client.start(sys.executable, "-c", WRITER))
    assert (seen["code"], seen["gaps"], seen["kinds"][-1]) == ("OK", 0, "verdict")
    assert seen["stdout"] == {"size": PIECES * MIB, "sha256": expected.hexdigest()}
    assert seen["verdict"]["end_offset"] == str(PIECES * MIB)
