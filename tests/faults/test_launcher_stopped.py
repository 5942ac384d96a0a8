"""A launcher that does not answer (SIGSTOP, a debugger, a machine that swaps): only what needs it waits."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio

from api.client import JobClient
from api.errors import DeadlineExceededError
from api.messages import Job, JobState
from tests.support.daemon import jobd_program
from tests.support.patience import patient
from tests.support.pki import TestPki

SECONDS: Final = patient(60)


async def starting_jobs(client: JobClient) -> list[Job]:
    return [each async for each in client.list() if each.state == JobState.STARTING]


async def test_queries_and_streams_go_on_and_a_start_can_be_given_up(pki: TestPki, tmp_path: Path) -> None:
    """A Start is recorded, and waits for its process; its caller may go. When the launcher goes on, so does the job,
    once; an exit meanwhile is learned."""
    gate, mark = tmp_path / "gate", tmp_path / "mark"
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=0) as client:
            job = await client.start(["sh", "-c", f"until test -e {gate}; do sleep 0.01; done; echo more; exit 5"])
            launcher = jobd.launcher
            os.kill(launcher, signal.SIGSTOP)
            try:
                async with trio.open_nursery() as calling:
                    calling.start_soon(partial(client.start, ["sh", "-c", f"echo x >> {mark}"], name="meanwhile"))
                    while not (meanwhile := await starting_jobs(client)):
                        await trio.sleep(0.01)
                    calling.cancel_scope.cancel()
                assert calling.cancel_scope.cancelled_caught
                [starting] = meanwhile
                assert starting.spec.name == "meanwhile"
                assert (await client.query(starting.id)).state == JobState.STARTING
                with pytest.raises(DeadlineExceededError):
                    await client.wait(starting.id, timeout=0.2)
                async with client.stream(job.id) as output:
                    gate.touch()
                    assert (await anext(output)).data == b"more\n"
            finally:
                os.kill(launcher, signal.SIGCONT)
            [ended, done] = await client.wait(job.id, starting.id)
    assert (ended.exit_code, done.state, done.exit_code) == (5, JobState.SUCCEEDED, 0)
    assert mark.read_text() == "x\n"
