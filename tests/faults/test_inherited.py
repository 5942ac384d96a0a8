"""What a job gets of ours with its process: nothing that it was not meant to."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final

import trio

from api.client import JobClient
from tests.support.daemon import JobdProgram, jobd_program
from tests.support.patience import patient
from tests.support.pki import TestPki

SECONDS: Final = patient(60)


def connect(pki: TestPki, jobd: JobdProgram):  # type: ignore[no-untyped-def] # the context manager of JobClient.connect
    return JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS)


async def test_a_job_has_no_descriptor_of_ours(pki: TestPki, tmp_path: Path) -> None:
    """Only its own three (and ls's): not the port, the lock or a pipe that the launcher keeps; after a restart too."""
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            for _ in range(2):
                job = await client.start(["ls", "/proc/self/fd"])
                async with client.stream(job.id) as output:
                    assert b"".join([chunk.data async for chunk in output]).split() == [b"0", b"1", b"2", b"3"]
                await trio.to_thread.run_sync(jobd.kill_server)


async def test_a_job_ignores_no_signal_that_it_did_not_choose_to(pki: TestPki, tmp_path: Path) -> None:
    """Whatever jobd was started with, as by nohup, or with a shell's & behind it."""
    ignored = {signum: signal.signal(signum, signal.SIG_IGN) for signum in (signal.SIGINT, signal.SIGQUIT)}
    try:
        with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
            async with connect(pki, jobd) as client:
                job = await client.start(["grep", "-E", "Sig(Ign|Blk)", "/proc/self/status"])
                async with client.stream(job.id) as output:
                    text = b"".join([chunk.data async for chunk in output])
    finally:
        for signum, handler in ignored.items():
            signal.signal(signum, handler)
    of_the_c_library = 0b11 << 31  # 32 and 33, which no program can change
    assert [int(word, 16) & ~of_the_c_library for word in text.split()[1::2]] == [0, 0]
