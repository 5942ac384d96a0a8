"""SIGTERM to a jobd that ends its jobs: all of them, whatever the server and the launcher are at."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio

from api.client import JobClient
from tests.support.daemon import JobdProgram, jobd_program, until_dead
from tests.support.jobs import new_mark, processes_with
from tests.support.patience import patient
from tests.support.pki import TestPki

SECONDS: Final = patient(60)


def connect(pki: TestPki, jobd: JobdProgram):  # type: ignore[no-untyped-def] # the context manager of JobClient.connect
    return JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS)


async def test_an_orderly_end_ends_many_jobs(pki: TestPki, tmp_path: Path) -> None:
    """However many signals that takes, and however slow the launcher is just then."""
    mark = new_mark()
    with jobd_program(pki, tmp_path / "state", "--slots", "500", "--grace", "0") as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client, trio.open_nursery() as nursery:
            for _ in range(300):
                nursery.start_soon(partial(client.start, ["sleep", "1000"], env={"MARK": mark}))
        while len(found := processes_with(mark)) < 300:  # one that executes has no environment for a moment
            await trio.sleep(0.01)
        assert len(found) == 300
        server, launcher = await trio.to_thread.run_sync(jobd.server_pid), jobd.launcher
        os.kill(jobd.launcher, signal.SIGSTOP)
        os.kill(server, signal.SIGTERM)  # what the launcher would do next
        await trio.sleep(0.5)
        os.kill(jobd.launcher, signal.SIGCONT)
        jobd.process.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(jobd.process.wait) == 0
    assert processes_with(mark) == []
    until_dead(launcher)  # it has heard of every end that it is recorded, and has nothing to remember


@pytest.mark.parametrize("pause", [0, 0.1, 0.3])
async def test_an_orderly_end_while_a_server_starts_still_ends_the_jobs(
    pki: TestPki, tmp_path: Path, pause: float
) -> None:
    """The wish is kept for the server that comes."""
    mark = new_mark()
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            await client.start(["sleep", "1000"], env={"MARK": mark})
        jobd.kill_server()
        await trio.sleep(pause)
        jobd.process.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(jobd.process.wait) == 0
    assert processes_with(mark) == []
