"""The one call in which both sides speak, by grpcio: half-close, cancellation, refusals."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from tests.interop.conftest import AuditLog, Peer
from tests.interop.peer import GrpcioPeer


async def attach(client: GrpcioPeer, job: str, **fields: Any) -> int:
    """Begin an attachment; its handle, when the server has taken it."""
    answer = await client.ask("converse", method="Attach")
    handle = int(answer["handle"])
    await say(client, handle, start={"job_id": job, **fields})
    attached = await client.ask("next", handle=handle)
    assert attached["attached"]["job_id"] == job, attached
    return handle


async def say(client: GrpcioPeer, handle: int, **request: Any) -> None:
    await client.ask("say", handle=handle, method="Attach", request=request)


async def write(client: GrpcioPeer, handle: int, data: bytes) -> None:
    await say(client, handle, data=base64.b64encode(data).decode())


async def start(client: GrpcioPeer, *argv: str) -> str:
    outcome = await client.call("Start", {"spec": {"argv": argv, "stdin": "STDIN_MODE_PIPE"}})
    return str(outcome["response"]["job"]["id"])


async def test_stdin_is_written_and_output_read(peer: Peer) -> None:
    """To the end of stdin, which is a message; then the job's output, and the verdict as the last message."""
    async with peer() as client:
        handle = await attach(client, await start(client, "cat"))
        for number in range(3):
            await write(client, handle, b"%d" % number * 100_000)
        await say(client, handle, close_stdin={})
        ended = await client.ask("rest", handle=handle)
    data = b"0" * 100_000 + b"1" * 100_000 + b"2" * 100_000
    assert (ended["code"], ended["kinds"][-1], ended["gaps"]) == ("OK", "verdict", 0)
    assert ended["stdout"] == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert "input_accepted" in ended["kinds"]


async def test_a_half_close_is_not_the_end_of_stdin(peer: Peer) -> None:
    """Output goes on; somebody else writes the rest."""
    async with peer() as client:
        job = await start(client, "cat")
        first = await attach(client, job)
        await write(client, first, b"1")
        await client.ask("half_close", handle=first)
        while "output" not in (answer := await client.ask("next", handle=first)):
            pass
        assert answer["output"]["data"] == base64.b64encode(b"1").decode()
        second = await attach(client, job, take_over=True)
        ended = await client.ask("rest", handle=first)
        assert (ended["code"], ended["reason"]) == ("ABORTED", "ATTACHMENT_TAKEN_OVER")
        await say(client, second, close_stdin={})
        assert (await client.ask("rest", handle=second))["verdict"]["end_offset"] == "1"


async def test_a_cancelled_call_detaches(peer: Peer, audit_log: AuditLog) -> None:
    """The server hears of it; the job goes on, and can be attached to again."""
    async with peer() as client:
        job = await start(client, "cat")
        handle = await attach(client, job)
        assert (await client.ask("cancel", handle=handle))["code"] == "CANCELLED"
        assert (await audit_log.line("Attach"))["status"] == "CANCELLED"
        again = await attach(client, job)
        await say(client, again, close_stdin={})
        assert (await client.ask("rest", handle=again))["code"] == "OK"


async def test_a_refusal_has_its_details(peer: Peer) -> None:
    """A first message that is no start, a reader, a second attachment: as with any other call."""
    async with peer() as client, peer("rita") as reader:
        job = await start(client, "cat")
        handle = (await client.ask("converse", method="Attach"))["handle"]
        await write(client, handle, b"x")
        ended = await client.ask("rest", handle=handle)
        assert (ended["code"], ended["violations"]) == ("INVALID_ARGUMENT", ["start"])
        held = await attach(client, job)
        for who, code, reason in (
            (client, "FAILED_PRECONDITION", "ALREADY_ATTACHED"),
            (reader, "PERMISSION_DENIED", "ROLE_MISSING"),
        ):
            handle = (await who.ask("converse", method="Attach"))["handle"]
            await say(who, handle, start={"job_id": job})
            ended = await who.ask("rest", handle=handle)
            assert (ended["code"], ended["reason"]) == (code, reason)
        await say(client, held, close_stdin={})
        assert (await client.ask("rest", handle=held))["code"] == "OK"
