"""A kill at every named step of what goes into a job: its stdin, and its terminal."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import trio

from api.attachment import Attachment
from api.errors import InputCutError
from api.messages import Job, JobState, Terminal
from tests.faults.scenarios import PIECES, STDIN, TERMINAL, Run, through
from tests.support.pki import TestPki

# ---- stdin and terminals

INPUT: Final = b"".join(b"%0999d\n" % number for number in range(20))


async def test_a_kill_while_stdin_is_written(pki: TestPki, tmp_path: Path) -> None:
    """The job reads every byte once, and the end. Whoever writes goes on by itself, or is told how many bytes may or
    may not have come; and those did, or did not, as the moment of the kill says."""

    async def scenario(run: Run) -> None:
        job = await run.client.start(["cat"], attachable=True, name=run.name)
        run.arm()
        certain = 0
        while True:
            output, cut = await attached(run, job, INPUT[certain:])
            if cut is None:
                break
            assert run.point.step == "Stdin.write", run.name
            assert 0 < cut.uncertain <= len(INPUT) - cut.accepted
            certain += cut.accepted + (1000 if run.point.when == "after" else 0)
        assert output == INPUT, run.name
        [ended] = await run.client.wait(job.id)
        assert (ended.state, ended.exit_code) == (JobState.SUCCEEDED, 0), run.name

    await through(pki, tmp_path, STDIN, scenario)


async def attached(run: Run, job: Job, data: bytes) -> tuple[bytes, InputCutError | None]:
    """Write all of it to the job's stdin, a thousand bytes at a time, and close it; what the job wrote, or why not."""
    output, cut = b"", None
    async with run.client.attach(job.id) as attachment, trio.open_nursery() as nursery:

        async def feed() -> None:
            with contextlib.suppress(trio.ClosedResourceError):
                for start in range(0, len(data), 1000):
                    await attachment.send(data[start : start + 1000])
                    await accepted(attachment, start + 1000)
                await attachment.close_stdin()

        nursery.start_soon(feed)
        try:
            async for chunk in attachment:
                output += chunk.data
        except InputCutError as exc:
            cut = exc
            nursery.cancel_scope.cancel()
    return output, cut


async def accepted(attachment: Attachment, count: int) -> None:
    while attachment.accepted < count:
        await trio.sleep(0.001)


TERMINAL_SCRIPT: Final = """
stty -opost
i=0
while [ "$i" -lt 12 ]; do
    printf '%04999d\\n' "$i"
    printf '%02999d\\n' "$i" >&2
    i=$((i + 1))
    [ "$i" != 6 ] || until [ "$(stty size)" = "40 132" ]; do sleep 0.01; done
done
exit 7
"""
"""It writes to its terminal, waits until that has another size, writes more, and exits with a code."""


async def test_a_kill_while_a_terminal_is_carried(pki: TestPki, tmp_path: Path) -> None:
    """Every byte that the job wrote to it is recorded, once and in order; and it gets its size."""

    async def scenario(run: Run) -> None:
        run.arm()
        job = await run.client.start(["sh", "-c", TERMINAL_SCRIPT], terminal=Terminal(24, 80), name=run.name)
        output = b""
        async with run.client.attach(job.id) as attachment:
            await attachment.resize(40, 132)
            async for chunk in attachment:
                output += chunk.data
        assert output == b"".join(b"%04999d\n%02999d\n" % (i, i) for i in range(PIECES)), run.name
        assert attachment.verdict is not None
        assert (attachment.verdict.state, attachment.verdict.exit_code) == (JobState.FAILED, 7), run.name

    await through(pki, tmp_path, TERMINAL, scenario)
