"""Input and terminals when somebody does what nobody should: floods, holds on, or is killed."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Final

import trio

from api import methods
from api.address import parse_address
from api.client import JobClient
from api.messages import AttachRequest, AttachStart, JobState, Terminal
from api.rpc.channel import open_channel
from tests.support.daemon import jobd_program
from tests.support.jobs import new_mark, processes_with
from tests.support.patience import patient
from tests.support.pki import TestPki

SECONDS: Final = patient(60)
MIB: Final = 1024 * 1024


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


async def test_a_flood_for_a_job_that_does_not_read_stays_with_its_sender(pki: TestPki, tmp_path: Path) -> None:
    """Several calls that send without end, and without waiting for what was accepted: the server takes a window of
    each, and goes on answering others."""
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice")) as client:
            ids = [(await client.start(["sleep", "1000"], attachable=True)).id for _ in range(3)]
            before, sent = resident(await trio.to_thread.run_sync(jobd.server_pid)), dict.fromkeys(ids, 0)

            async def flood(job_id: str) -> None:
                async with (
                    open_channel(*parse_address(jobd.server), pki.context("alice")) as channel,
                    channel.converse(methods.ATTACH) as call,
                ):
                    await call.send(AttachRequest(start=AttachStart(job_id=job_id)))
                    while True:
                        await call.send(AttachRequest(data=bytes(MIB)))
                        sent[job_id] += MIB

            async with trio.open_nursery() as nursery:
                for job_id in ids:
                    nursery.start_soon(flood, job_id)
                while min(sent.values()) < 4 * MIB:
                    await trio.sleep(0.01)
                for _ in range(20):  # it goes on answering, and the floods come no further meanwhile
                    await client.workers()
                assert max(sent.values()) < 8 * MIB
                assert resident(await trio.to_thread.run_sync(jobd.server_pid)) - before < len(ids) * 16 * MIB
                nursery.cancel_scope.cancel()
            for job_id in ids:
                await client.stop(job_id, grace=0)


async def test_whoever_keeps_a_terminal_after_the_job_is_ended_with_it(pki: TestPki, tmp_path: Path) -> None:
    """The job's output is whole, its code is its own, and no process is left."""
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice")) as client:
            mark = new_mark()
            script = "trap '' HUP TERM; (while :; do sleep 0.01; done) & echo first; echo last >&2; exit 3"
            job = await client.start(["sh", "-c", script], terminal=Terminal(24, 80), env={"MARK": mark})
            async with client.attach(job.id) as attachment:
                output = b"".join([chunk.data async for chunk in attachment])
            assert output == b"first\r\nlast\r\n"
            assert attachment.verdict is not None
            assert attachment.verdict.exit_code == 3
            assert processes_with(mark) == []
            ended = await client.query(job.id)
            assert ended.stop_receipt is not None
            assert ended.stop_receipt.empty


async def test_a_job_outlives_its_launcher_with_its_stdin(pki: TestPki, tmp_path: Path) -> None:
    """The server has it open as well: it is written, and closed, as before. How the job ended nobody knows."""
    with jobd_program(pki, tmp_path / "state", "--shutdown", "5") as jobd, trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice")) as client:
            job = await client.start(["cat"], attachable=True)
            async with client.attach(job.id) as attachment:
                await attachment.send(b"before ")
                assert (await anext(attachment)).data == b"before "
                os.kill(jobd.launcher, signal.SIGKILL)
                await attachment.send(b"after")
                await attachment.close_stdin()
                assert b"".join([chunk.data async for chunk in attachment]) == b"after"
            assert attachment.verdict is not None
            assert (attachment.verdict.state, attachment.verdict.reason) == (JobState.LOST, "LAUNCHER_LOST")


async def test_a_terminal_is_no_wall_between_jobs_of_one_user(pki: TestPki, tmp_path: Path) -> None:
    """As docs/security.md says: what one writes to another's terminal is seen there, and it is that one's output."""
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice")) as client:
            job = await client.start(["sh", "-c", "tty; read x"], terminal=Terminal(24, 80))
            async with client.attach(job.id) as attachment:
                name = (await anext(attachment)).data.decode().strip()
                other = await client.start(["sh", "-c", f"echo from another > {name}"])
                await client.wait(other.id)
                assert (await anext(attachment)).data == b"from another\r\n"
                await attachment.send(b"\n")
                assert [chunk.data async for chunk in attachment] == [b"\r\n"]
