"""SIGTERM and what comes after it: jobs stay with their launcher, and the next jobd takes them up."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio

from api.client import JobClient
from api.messages import JobState
from jobd.launcher import control, protocol
from tests.support.daemon import SOON, JobdProgram, descriptors_of, is_alive, jobd_program, until_dead
from tests.support.jobs import new_mark, processes_with
from tests.support.patience import patient
from tests.support.pki import TestPki

ROOT = Path(__file__).parents[2]
SECONDS = patient(30)
STAY = "--no-stop-jobs"


def connect(pki: TestPki, jobd: JobdProgram, retry_for: float = SECONDS) -> JobClient:
    return JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=retry_for)


async def end(jobd: JobdProgram, signum: int = signal.SIGTERM) -> int:
    """Signal a jobd; its exit code."""
    jobd.process.send_signal(signum)
    return await trio.to_thread.run_sync(jobd.process.wait, SECONDS)


@contextmanager
def left_behind(jobd: JobdProgram) -> Iterator[int]:
    """The launcher that a jobd has left; ended at the end of the block, jobs and all, if it is still there."""
    launcher = jobd.launcher
    try:
        yield launcher
    finally:
        for _ in range(2):  # the second wish is not patient
            if is_alive(launcher):
                with suppress(ProcessLookupError):
                    os.kill(launcher, signal.SIGTERM)
        until_dead(launcher)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_jobs_stay(pki: TestPki, tmp_path: Path, signum: int) -> None:
    """The next jobd has them: the same process, every byte, and the exit code of the one that ended in between."""
    gate = tmp_path / "gate"
    with jobd_program(pki, tmp_path / "state", STAY) as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            script = f"echo before; until test -e {gate}; do sleep 0.01; done; echo after; exit 5"
            ending = await client.start(["sh", "-c", script])
            staying = await client.start(["sleep", "1000"])
            waiting = await client.start(["true"], request_id="again")
        assert await end(jobd, signum) == 0
        assert "jobs go on" in jobd.log.read_text()
        launcher = jobd.launcher
        gate.touch()
        while is_alive(ending.pid):
            await trio.sleep(0.01)
        with jobd_program(pki, tmp_path / "state") as next_one:
            async with connect(pki, next_one) as client:
                assert next_one.launcher == launcher
                [ended] = await client.wait(ending.id)
                async with client.stream(ending.id) as output:
                    text = b"".join([chunk.data async for chunk in output])
                assert (ended.state, ended.exit_code, text) == (JobState.FAILED, 5, b"before\nafter\n")
                still = await client.query(staying.id)
                assert (still.state, still.pid) == (JobState.RUNNING, staying.pid)
                assert (await client.start(["true"], request_id="again")).id == waiting.id
                stopped = await client.stop(staying.id)
                assert stopped.signal == signal.SIGTERM
    until_dead(launcher)


async def test_without_jobs_nothing_stays(pki: TestPki, tmp_path: Path) -> None:
    """The launcher goes with the rest."""
    with jobd_program(pki, tmp_path / "state", STAY) as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            job = await client.start(["true"])
            await client.wait(job.id)
        launcher = jobd.launcher
        assert await end(jobd) == 0
    until_dead(launcher)


async def test_a_launcher_left_alone_holds_nobody_s_output(pki: TestPki, tmp_path: Path) -> None:
    """Whoever reads what jobd writes reads its end when jobd has ended."""
    reading, writing = os.pipe()
    with (
        jobd_program(pki, tmp_path / "state", STAY, stderr=writing) as jobd,
        os.fdopen(reading, "rb") as said,
        trio.fail_after(SECONDS),
    ):
        os.close(writing)
        async with connect(pki, jobd) as client:
            await client.start(["sleep", "1000"])
        with left_behind(jobd):
            assert await end(jobd) == 0
            assert b"jobs go on" in await trio.to_thread.run_sync(said.read)


async def test_sigterm_to_a_launcher_left_alone_ends_the_jobs(pki: TestPki, tmp_path: Path) -> None:
    """In order: each end is recorded, as when jobd is told to stop its jobs."""
    mark = new_mark()
    with jobd_program(pki, tmp_path / "state", STAY) as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            job = await client.start(["sleep", "1000"], env={"MARK": mark})
        assert await end(jobd) == 0
        launcher = jobd.launcher
        os.kill(launcher, signal.SIGTERM)
        await trio.to_thread.run_sync(until_dead, launcher)
        assert processes_with(mark) == []
        with jobd_program(pki, tmp_path / "state") as next_one:
            async with connect(pki, next_one) as client:
                ended = await client.query(job.id)
    assert (ended.state, ended.reason, ended.signal) == (JobState.STOPPED, "WORKER_SHUT_DOWN", signal.SIGTERM)


async def test_a_jobd_can_be_started_as_soon_as_the_last_one_has_ended(pki: TestPki, tmp_path: Path) -> None:
    """Its launcher, though it may still be there for a moment, has let go of the directory."""
    for _ in range(3):
        with jobd_program(pki, tmp_path / "state", STAY) as jobd:
            assert await end(jobd) == 0


async def test_a_front_that_makes_no_sense_is_not_served(pki: TestPki, tmp_path: Path) -> None:
    """One of another version, say: it is turned away, and the next one finds everything as it was."""
    with jobd_program(pki, tmp_path / "state", STAY) as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            job = await client.start(["sleep", "1000"])
        assert await end(jobd) == 0
        launcher = jobd.launcher
        with control.connect(tmp_path / "state") as door:
            wish = protocol.as_memfd({"command": ["true"]})
            protocol.send(door, {"op": "serve"}, [wish] * 3)
            os.close(wish)
            await trio.lowlevel.wait_readable(door)
            assert protocol.receive(door) == ({"op": "busy", "version": protocol.VERSION}, [])
        with jobd_program(pki, tmp_path / "state") as next_one:
            async with connect(pki, next_one) as client:
                assert (await client.query(job.id)).pid == job.pid
                assert next_one.launcher == launcher


async def test_a_client_takes_up_its_stream_at_the_next_jobd(pki: TestPki, tmp_path: Path) -> None:
    """It is told to call again, at once, and goes on at the exact byte."""
    gate = tmp_path / "gate"
    with jobd_program(pki, tmp_path / "state", STAY) as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            job = await client.start(
                ["sh", "-c", f"echo one; until test -e {gate}; do sleep 0.01; done; echo two; exit 3"]
            )
            async with client.stream(job.id) as output:
                text = (await anext(output)).data
                assert await end(jobd) == 0
                port = jobd.server.rpartition(":")[2]
                with jobd_program(pki, tmp_path / "state", "--listen", f"127.0.0.1:{port}"):
                    gate.touch()
                    text += b"".join([chunk.data async for chunk in output])
                    assert output.verdict is not None
                    assert (text, output.verdict.exit_code) == (b"one\ntwo\n", 3)


async def test_a_killed_front_takes_nothing_with_it(pki: TestPki, tmp_path: Path) -> None:
    """The server goes on serving; the next jobd takes it all over, though its code may be another."""
    with jobd_program(pki, tmp_path / "state", STAY) as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            job = await client.start(["sleep", "1000"])
            jobd.process.kill()
            await trio.to_thread.run_sync(jobd.process.wait)
            assert (await client.query(job.id)).state == JobState.RUNNING
            server, launcher = await trio.to_thread.run_sync(jobd.server_pid), jobd.launcher
        with jobd_program(pki, tmp_path / "state") as next_one:
            async with connect(pki, next_one) as client:
                assert (await client.query(job.id)).pid == job.pid
                assert next_one.launcher == launcher
                assert await trio.to_thread.run_sync(next_one.server_pid) != server
    until_dead(launcher, server)


async def test_a_jobd_that_cannot_start_leaves_the_jobs_where_they_are(pki: TestPki, tmp_path: Path) -> None:
    """Its settings are wrong: it says so and ends, and the launcher waits for the next one."""
    with jobd_program(pki, tmp_path / "state", STAY) as jobd, trio.fail_after(SECONDS):
        async with connect(pki, jobd) as client:
            job = await client.start(["sleep", "1000"])
        assert await end(jobd) == 0
        with left_behind(jobd):
            flags = [text for name, path in pki.server().items() for text in (f"--{name}", str(path))]
            done = subprocess.run(
                [sys.executable, "-m", "jobd", *flags, "--state", str(tmp_path / "state"), "--listen", "192.0.2.1:0"],
                check=False,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            assert done.returncode == 2
            assert "cannot listen on 192.0.2.1:0" in done.stderr
            with jobd_program(pki, tmp_path / "state") as next_one:
                async with connect(pki, next_one) as client:
                    assert (await client.query(job.id)).pid == job.pid


def test_a_launcher_that_does_not_answer_is_not_waited_for(pki: TestPki, tmp_path: Path) -> None:
    """The second jobd says which pid has the directory and does not answer, and ends."""
    with jobd_program(pki, tmp_path / "state") as jobd:
        os.kill(jobd.launcher, signal.SIGSTOP)
        try:
            done = run_again(pki, jobd, tmp_path / "state", SOON)
        finally:
            os.kill(jobd.launcher, signal.SIGCONT)
        assert done.returncode == 2
        assert f"held by another jobd (pid {jobd.launcher}), which does not answer" in done.stderr


def run_again(
    pki: TestPki, jobd: JobdProgram, state: Path, program: Sequence[str] = ("-m", "jobd")
) -> subprocess.CompletedProcess[str]:
    """A second jobd on a state directory that somebody has."""
    flags = [text for name, path in pki.server().items() for text in (f"--{name}", str(path))]
    return subprocess.run(
        [sys.executable, *program, *flags, "--state", str(state), "--listen", "127.0.0.1:0"],
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_a_stale_socket_is_in_nobody_s_way(pki: TestPki, tmp_path: Path) -> None:
    """One that a crash has left is replaced, whatever it is."""
    state = tmp_path / "state"
    with jobd_program(pki, state) as jobd:
        jobd.crash()
    assert (state / control.NAME).is_socket()
    with jobd_program(pki, state) as jobd:
        assert "held by another jobd" in run_again(pki, jobd, state).stderr


async def test_a_signal_while_the_launcher_executes_itself_anew_is_not_its_end(pki: TestPki, tmp_path: Path) -> None:
    """It waits until the new code is ready for it."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "sitecustomize.py").write_text(
        "import os, signal\nif 'JOBD_LAUNCHER_STATE' in os.environ:\n    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    with (
        jobd_program(pki, tmp_path / "state", STAY, path=[code, ROOT]) as jobd,
        trio.fail_after(SECONDS),
    ):
        async with connect(pki, jobd) as client:
            await client.start(["sleep", "1000"])
        with left_behind(jobd) as launcher:
            os.kill(launcher, signal.SIGHUP)
            assert await trio.to_thread.run_sync(jobd.process.wait, SECONDS) == 0  # what SIGINT asks for
            assert is_alive(launcher)


def test_a_visitor_who_talks_nonsense_costs_the_launcher_nothing(pki: TestPki, tmp_path: Path) -> None:
    """No descriptor that it sends stays there, whatever it says, and the launcher goes on."""
    said = [b"x", b"[]", b"{}", b'{"op":1}', b'{"op":"serve"}', b'{"op":"knock"}', b'{"op":"signal"}']
    with jobd_program(pki, tmp_path / "state") as jobd:
        before = descriptors_of(jobd.launcher)
        with open(os.devnull) as file:  # noqa: PTH123 # pathlib's is the same
            for packet in said:
                with control.connect(tmp_path / "state") as sock:
                    socket.send_fds(sock, [packet], [file.fileno()] * 2)
        until = time.monotonic() + SECONDS
        while descriptors_of(jobd.launcher) > before:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert "held by another jobd" in run_again(pki, jobd, tmp_path / "state").stderr
