"""Attached while the server is killed, upgraded or cut off: no byte of output is lost, and none of input is doubled."""

from __future__ import annotations

import hashlib
import os
import random
import signal
from pathlib import Path
from typing import Final

import pytest
import trio

from api.attachment import MAX_UNACCEPTED
from api.client import JobClient
from api.errors import InputCutError
from api.messages import JobState, Terminal
from tests.support.daemon import jobd_program, until_dead
from tests.support.patience import patient
from tests.support.pki import TestPki

SECONDS: Final = patient(60)
MIB: Final = 1024 * 1024
TERMINAL_WRITER: Final = """
import random, sys, termios
modes = termios.tcgetattr(1)
modes[1] &= ~termios.OPOST
termios.tcsetattr(1, termios.TCSANOW, modes)
size, seed = int(sys.argv[1]), int(sys.argv[2])
data = random.Random(seed)
while size:
    piece = data.randbytes(min(size, data.randrange(1, 10_000)))
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()
    size -= len(piece)
"""


def written(size: int, seed: int) -> str:
    data, sum_ = random.Random(seed), hashlib.sha256()
    while size:
        piece = data.randbytes(min(size, data.randrange(1, 10_000)))
        sum_.update(piece)
        size -= len(piece)
    return sum_.hexdigest()


async def test_what_a_terminal_shows_is_whole_whatever_kills_the_server(pki: TestPki, tmp_path: Path) -> None:
    """Byte for byte, over many kills, live and afterwards."""
    size = 10 * MIB  # a ninth of it is more than comes at a time: each kill has bytes of its own before it
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS) as client:
            job = await client.start(["python3", "-c", TERMINAL_WRITER, str(size), "7"], terminal=Terminal(24, 80))
            sum_, end, kills = hashlib.sha256(), 0, 0
            async with client.attach(job.id) as attachment:
                async for chunk in attachment:
                    assert chunk.offset == end
                    end += len(chunk.data)
                    sum_.update(chunk.data)
                    if end > (kills + 1) * size // 9:
                        kills += 1
                        await trio.to_thread.run_sync(jobd.kill_server)
            assert attachment.verdict is not None
            assert (attachment.verdict.exit_code, attachment.verdict.dropped_bytes) == (0, 0)
            assert sum_.hexdigest() == written(size, 7)
            again = hashlib.sha256()
            async with client.stream(job.id) as output:
                async for chunk in output:
                    again.update(chunk.data)
            assert again.hexdigest() == sum_.hexdigest()
    assert kills == 8


async def test_a_job_that_ended_while_no_server_ran_is_whole(pki: TestPki, tmp_path: Path) -> None:
    """What it wrote last to its terminal is there, and so is its code; whoever was attached has both."""
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS) as client:
            gate = tmp_path / "gate"
            script = f"echo first; until test -e {gate}; do sleep 0.01; done; echo last; exit 5"
            job = await client.start(["sh", "-c", script], terminal=Terminal(24, 80))
            async with client.attach(job.id) as attachment:
                assert (await anext(attachment)).data == b"first\r\n"
                launcher, server = jobd.launcher, await trio.to_thread.run_sync(jobd.server_pid)
                os.kill(server, signal.SIGSTOP)
                gate.touch()
                until_dead(job.pid)
                os.kill(server, signal.SIGKILL)
                until_dead(server)
                assert launcher == jobd.launcher
                rest = b"".join([chunk.data async for chunk in attachment])
            assert rest == b"last\r\n"
            assert attachment.verdict is not None
            assert attachment.verdict.exit_code == 5


async def test_an_upgrade_loses_no_input(pki: TestPki, tmp_path: Path) -> None:
    """A server that leaves says what it has written; the rest is written by the next one, without anybody noticing."""
    data = random.Random(3).randbytes(24 * MIB)
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS) as client:
            job = await client.start(["sha256sum"], attachable=True)
            async with client.attach(job.id) as attachment, trio.open_nursery() as nursery:

                async def upgraded(times: int) -> None:
                    while jobd.log.read_text().count("executed anew") < times:
                        await trio.sleep(0.01)

                async def feed() -> None:
                    for start in range(0, len(data), MIB):
                        await attachment.send(data[start : start + MIB])
                        if start in (8 * MIB, 16 * MIB):
                            await upgraded(start // (8 * MIB) - 1)
                            jobd.process.send_signal(signal.SIGHUP)
                    await attachment.close_stdin()

                nursery.start_soon(feed)
                output = b"".join([chunk.data async for chunk in attachment])
            assert output.split()[0].decode() == hashlib.sha256(data).hexdigest()
            assert attachment.accepted == len(data)
            await upgraded(2)


async def test_input_on_its_way_at_a_kill_is_told_and_not_sent_again(pki: TestPki, tmp_path: Path) -> None:
    """The job has what was accepted, and at most the uncertain bytes beyond it; it goes on, and so can the input."""
    data = random.Random(4).randbytes(16 * MIB)
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS) as client:
            job = await client.start(["cat"], attachable=True)
            with pytest.RaisesGroup(InputCutError) as caught:  # out of the nursery
                async with client.attach(job.id) as attachment, trio.open_nursery() as nursery:

                    async def feed() -> None:
                        with pytest.raises(trio.ClosedResourceError):
                            await attachment.send(data)

                    nursery.start_soon(feed)
                    async for chunk in attachment:
                        if chunk.offset > 2 * MIB:
                            os.kill(jobd.server_pid(), signal.SIGKILL)
            error = caught.value.exceptions[0]
            assert 0 < error.uncertain <= MAX_UNACCEPTED
            assert str(error.uncertain) in str(error)
            # Whoever asks the job finds out: all that came is a prefix of what was sent.
            async with client.attach(job.id) as attachment:
                await attachment.close_stdin()
                output = b"".join([chunk.data async for chunk in attachment])
            assert data.startswith(output)
            assert error.accepted <= len(output) <= error.accepted + error.uncertain


async def test_a_stdin_that_was_closed_stays_closed(pki: TestPki, tmp_path: Path) -> None:
    """Also for a launcher that has executed itself anew since."""
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS) as client:
            job = await client.start(["sh", "-c", "cat; echo end; exec sleep 1000"], attachable=True)
            async with client.attach(job.id) as attachment:
                await attachment.close_stdin()
                assert (await anext(attachment)).data == b"end\n"
            for end in ("killed", "upgraded"):
                server = await trio.to_thread.run_sync(jobd.server_pid)
                if end == "killed":
                    jobd.kill_server()
                else:
                    jobd.process.send_signal(signal.SIGHUP)
                await trio.to_thread.run_sync(until_dead, server)
                async with client.attach(job.id) as attachment:
                    assert attachment.stdin_closed
            stopped = await client.stop(job.id, grace=0)
            assert stopped.state == JobState.STOPPED


async def test_a_terminal_outlives_an_upgrade(pki: TestPki, tmp_path: Path) -> None:
    """The launcher takes it over into itself: it is read, written and resized as before."""
    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=SECONDS) as client:
            script = 'stty -echo; echo begun; while read x; do echo "$x $(stty size)"; done; exit 6'
            job = await client.start(["sh", "-c", script], terminal=Terminal(24, 80))
            async with client.attach(job.id, size=(30, 100)) as attachment:
                assert (await anext(attachment)).data == b"begun\r\n"
                for number in range(2):
                    server = await trio.to_thread.run_sync(jobd.server_pid)
                    jobd.process.send_signal(signal.SIGHUP)
                    await trio.to_thread.run_sync(until_dead, server)
                    await attachment.send(b"%d\n" % number)
                    assert (await anext(attachment)).data == b"%d 30 100\r\n" % number
                await attachment.send(b"\x04")
                assert [chunk async for chunk in attachment] == []
            assert attachment.verdict is not None
            assert attachment.verdict.exit_code == 6
