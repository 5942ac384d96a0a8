"""The real ``jobd``, in a process of its own: how it starts, what it refuses, what it leaves, what it finds again."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from api.address import parse_address
from api.client import JobClient
from api.messages import Job, JobState, OutputSource
from tests.support.daemon import JobdProgram, jobd_program, until_dead
from tests.support.pki import TestPki
from tests.support.program import SECONDS, clean_environment, end, group_is_gone, program

ROOT = Path(__file__).parents[2]


def flags_for(pki: TestPki, directory: Path, **changes: str | Path | None) -> list[str]:
    """What jobd needs, with changes; None leaves a flag out."""
    settings = {**pki.server(), "state": directory, "listen": "127.0.0.1:0", **changes}
    return [text for name, value in settings.items() if value is not None for text in (f"--{name}", str(value))]


def refused(arguments: list[str], environment: Mapping[str, str]) -> str:
    """Run a jobd that refuses to start: exit code 2, nothing on stdout, one sentence on stderr, which is returned."""
    done = subprocess.run(
        [sys.executable, "-m", "jobd", *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert re.fullmatch(r"jobd: [^\n]+\n", done.stderr), done.stderr
    return done.stderr.removeprefix("jobd: ").rstrip("\n")


@asynccontextmanager
async def client_of(pki: TestPki, jobd: JobdProgram) -> AsyncIterator[JobClient]:
    """A writer's connection to a jobd."""
    with trio.fail_after(SECONDS):
        async with JobClient.connect(jobd.server, **pki.credentials("alice"), retry_for=0) as client:
            yield client


async def stdout_of(client: JobClient, job_id: str) -> bytes:
    """All of a job's stdout."""
    async with client.stream(job_id) as output:
        return b"".join([chunk.data async for chunk in output if chunk.source == OutputSource.STDOUT])


# ---- ready


def test_one_line_on_stdout_says_that_it_listens(pki: TestPki, tmp_path: Path) -> None:
    """Nothing before, nothing after; the address in it is the one to connect to, already."""
    with program(flags_for(pki, tmp_path / "state"), clean_environment(tmp_path)) as (process, first):
        match = re.fullmatch(r"jobd is listening on (127\.0\.0\.1):([0-9]+)\n", first)
        assert match
        with socket.create_connection((match[1], int(match[2])), timeout=SECONDS):
            pass
        code, rest, _ = end(process)
    assert (code, rest) == (0, "")


def test_one_that_cannot_say_that_it_listens_does_not_serve(pki: TestPki, tmp_path: Path) -> None:
    """Nor is another one started, which could not say so either."""
    command = [sys.executable, "-m", "jobd", *flags_for(pki, tmp_path / "state")]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            env=clean_environment(tmp_path),
            check=False,
        )
    assert done.returncode == 2
    assert "jobd: stdout cannot be written: No space left on device\n" in done.stderr
    assert "starting it again" not in done.stderr


def test_it_binds_only_the_address_that_it_was_told(pki: TestPki, tmp_path: Path) -> None:
    """Another address of the same machine is not listened on."""
    with jobd_program(pki, tmp_path / "state") as jobd:
        _, port = parse_address(jobd.server)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=SECONDS)
        with pytest.raises(OSError):
            socket.create_connection(("::1", port), timeout=SECONDS)


def test_the_state_directory_is_private(pki: TestPki, tmp_path: Path) -> None:
    """Made with its parents, and closed to others, whatever the umask."""
    state = tmp_path / "a" / "b" / "state"
    with jobd_program(pki, state):
        assert state.stat().st_mode & 0o777 == 0o700


# ---- what it refuses


def test_a_state_directory_is_for_one_jobd(pki: TestPki, tmp_path: Path) -> None:
    """A second one is refused, and told the pid of the first, which goes on."""
    with jobd_program(pki, tmp_path / "state") as jobd:
        told = refused(flags_for(pki, tmp_path / "state"), clean_environment(tmp_path))
        assert jobd.process.poll() is None
        launcher = jobd.launcher
    assert f"is held by another jobd (pid {launcher})" in told
    assert str(tmp_path / "state") in told


def test_a_port_is_for_one_jobd(pki: TestPki, tmp_path: Path) -> None:
    """A second one on the same port is refused, with the address and a guess, and the line where it was said."""
    file = tmp_path / "jobd.toml"
    with jobd_program(pki, tmp_path / "state") as jobd:
        _, port = parse_address(jobd.server)
        file.write_text(f'# the second\nlisten = "127.0.0.1:{port}"\n')
        arguments = flags_for(pki, tmp_path / "other", listen=None, config=file)
        told = refused(arguments, clean_environment(tmp_path))
    expected = f"cannot listen on 127.0.0.1:{port}: Address already in use; is another jobd running?"
    assert told == f"{expected} ({file}:2: listen)"


def test_a_state_directory_open_to_others_is_refused(pki: TestPki, tmp_path: Path) -> None:
    """With the command that closes it."""
    (tmp_path / "state").mkdir(mode=0o755)
    told = refused(flags_for(pki, tmp_path / "state"), clean_environment(tmp_path))
    assert f"chmod 700 {tmp_path}/state" in told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"listen": "127.0.0.1"}, "'127.0.0.1' is not an address; write HOST:PORT"),
        ({"listen": "192.0.2.1:0"}, "cannot listen on 192.0.2.1:0: Cannot assign requested address"),
        ({"state": "/dev/null/state"}, "the state directory /dev/null/state cannot be used"),
        ({"key": "/tmp"}, "cannot read the private key /tmp: Is a directory"),
        ({"ca": "/no/such.crt"}, "cannot read the CA certificate /no/such.crt: No such file or directory"),
        ({"ca": "/dev/null"}, "the CA file /dev/null holds no PEM certificate"),
        ({"key": "/dev/null"}, "server.crt and /dev/null cannot be used"),
        ({"slots": "0"}, "--slots: '0' is not between 1 and"),
        ({"slots": "many"}, "--slots: 'many' is not a whole number"),
        ({"grace": "-1"}, "--grace: '-1' is not between 0 and"),
        ({"grace": "nan"}, "--grace: 'nan' is not"),
        ({"log-level": "loud"}, "--log-level: 'loud' is not one of debug, info, warning, error"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_used_is_named(
    pki: TestPki, tmp_path: Path, changes: dict[str, str], told: str
) -> None:
    """One sentence: which, what is wrong with it, and often what to do."""
    assert told in refused(flags_for(pki, tmp_path / "state", **changes), clean_environment(tmp_path))


def test_a_key_of_another_certificate_is_refused(pki: TestPki, tmp_path: Path) -> None:
    """Both files are named."""
    told = refused(flags_for(pki, tmp_path / "state", key=pki.key("alice")), clean_environment(tmp_path))
    assert told == f"the private key {pki.key('alice')} does not belong to the certificate {pki.certificate('server')}"


def test_missing_settings_are_all_named(tmp_path: Path) -> None:
    """With the other ways to give them."""
    told = refused([], clean_environment(tmp_path))
    assert told.startswith("missing: --cert, --key, --ca, --state ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("listen = ", "is not TOML"),
        ("max-pendng = 1", "there is no setting 'max-pendng'; did you mean max-pending?"),
        ("max_pending = 1", "there is no setting 'max_pending'; did you mean max-pending?"),
        ('slots = "many"', "'many' is not a whole number"),
        ("slots = 1.5", "1.5 is not a whole number"),
        ("slots = true", "True is not a whole number"),
        ("grace = true", "True is not a number"),
        ("listen = 50051", "50051 is not a text"),
    ],
)
def test_a_config_file_that_cannot_be_used_is_named(pki: TestPki, tmp_path: Path, text: str, told: str) -> None:
    """The file, the key, what is wrong with it, and the nearest key that there is."""
    file = tmp_path / "jobd.toml"
    file.write_text(text)
    message = refused([*flags_for(pki, tmp_path / "state"), "--config", str(file)], clean_environment(tmp_path))
    assert str(file) in message
    assert told in message


@pytest.mark.parametrize("arguments", [["--no-such-flag"], ["--sta", "x"], ["stray"]])
def test_an_unknown_flag_is_bad_usage(tmp_path: Path, arguments: list[str]) -> None:
    """Exit code 2 and a usage line; flags are not abbreviated."""
    done = subprocess.run(
        [sys.executable, "-m", "jobd", *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=clean_environment(tmp_path),
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: jobd" in done.stderr
    assert "Traceback" not in done.stderr


# ---- where settings come from


@pytest.mark.parametrize(
    ("flag", "variable", "in_file", "expected"),
    [
        (None, None, "127.0.0.3:0", "127.0.0.3"),
        (None, "127.0.0.2:0", "127.0.0.3:0", "127.0.0.2"),
        ("127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0", "127.0.0.1"),
        ("127.0.0.1:0", None, "127.0.0.3:0", "127.0.0.1"),
    ],
)
def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    pki: TestPki, tmp_path: Path, flag: str | None, variable: str | None, in_file: str, expected: str
) -> None:
    """Seen in the address that is listened on."""
    file = tmp_path / "jobd.toml"
    file.write_text(f'listen = "{in_file}"')
    environment = clean_environment(tmp_path, **({"JOBD_LISTEN": variable} if variable else {}))
    arguments = [*flags_for(pki, tmp_path / "state", listen=flag), "--config", str(file)]
    with program(arguments, environment) as (_, first):
        assert first.startswith(f"jobd is listening on {expected}:")


def test_everything_may_stand_in_a_file_named_by_the_environment(pki: TestPki, tmp_path: Path) -> None:
    """JOBD_CONFIG, and no flag at all."""
    file = tmp_path / "jobd.toml"
    settings = {**pki.server(), "state": tmp_path / "state", "listen": "127.0.0.1:0"}
    file.write_text("".join(f'{key} = "{value}"\n' for key, value in settings.items()) + "max-pending = 3\n")
    with program([], clean_environment(tmp_path, JOBD_CONFIG=str(file))) as (_, first):
        assert first.startswith("jobd is listening on ")


# ---- the end


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_order(pki: TestPki, tmp_path: Path, signum: int) -> None:
    """Exit code 0, no traceback, and no process of any job is left, of those that their jobs started neither."""
    with jobd_program(pki, tmp_path / "state", "--grace", "0.3") as jobd:
        async with client_of(pki, jobd) as client:
            polite = await client.start(["sh", "-c", "echo ready; sleep 1000 & sleep 1000 & wait"])
            deaf = await client.start(["sh", "-c", 'trap "" TERM; echo ready; while :; do sleep 0.05; done'])
            for job in (polite, deaf):
                async with client.stream(job.id) as output:
                    await anext(output)
        code, _, _ = await trio.to_thread.run_sync(end, jobd.process, signum)
    assert code == 0
    assert "Traceback" not in jobd.log.read_text()
    assert group_is_gone(polite.pid)
    assert group_is_gone(deaf.pid)


async def test_an_open_connection_does_not_keep_it_from_ending(pki: TestPki, tmp_path: Path) -> None:
    """A client that follows a job is told how it ended, or that the server goes; jobd ends all the same."""
    with jobd_program(pki, tmp_path / "state") as jobd:
        async with client_of(pki, jobd) as client:
            job = await client.start(["sh", "-c", "echo ready; exec sleep 1000"])
            async with client.stream(job.id) as output:
                await anext(output)
                code, _, _ = await trio.to_thread.run_sync(end, jobd.process)
    assert code == 0
    assert "Traceback" not in jobd.log.read_text()


async def test_a_job_that_an_orderly_end_ended_is_recorded_as_stopped(pki: TestPki, tmp_path: Path) -> None:
    """After the next start it is there, with why it ended and with what it wrote last."""
    with jobd_program(pki, tmp_path / "state") as jobd:
        async with client_of(pki, jobd) as client:
            job = await client.start(
                ["sh", "-c", 'trap "echo bye; exit 0" TERM; echo hi; while :; do sleep 0.05; done']
            )
            async with client.stream(job.id) as output:
                await anext(output)
    with jobd_program(pki, tmp_path / "state") as jobd:
        async with client_of(pki, jobd) as client:
            ended = await client.query(job.id)
            assert await stdout_of(client, job.id) == b"hi\nbye\n"
    assert (ended.state, ended.reason, ended.exit_code) == (JobState.STOPPED, "WORKER_SHUT_DOWN", 0)


# ---- after a crash


@asynccontextmanager
async def after_a_crash(pki: TestPki, state: Path) -> AsyncIterator[tuple[JobClient, Job, Job, Job]]:
    """A jobd on the state of one that was killed, and the jobs that had ended, ran (until just after that) and waited
    then."""
    with jobd_program(pki, state, "--slots", "1") as jobd:
        async with client_of(pki, jobd) as client:
            finished = await client.start(["sh", "-c", r"printf 'out\0\377'; exit 3"])
            await client.wait(finished.id)
            running = await client.start(["sh", "-c", "echo begun; exec sleep 1000"])
            async with client.stream(running.id) as output:
                await anext(output)
            waiting = await client.start(["echo", "late"], name="waiting", env={"A": "1"})
            assert waiting.state == JobState.PENDING
        jobd.crash()
    os.killpg(running.pid, signal.SIGKILL)
    until_dead(running.pid)
    with jobd_program(pki, state, "--slots", "1") as jobd:
        async with client_of(pki, jobd) as client:
            yield client, finished, running, waiting


async def test_a_job_that_had_ended_is_there_after_a_crash(pki: TestPki, tmp_path: Path) -> None:
    """With its end and every byte of its output."""
    async with after_a_crash(pki, tmp_path / "state") as (client, finished, _, _):
        job = await client.query(finished.id)
        assert (job.state, job.exit_code, job.output_bytes) == (JobState.FAILED, 3, 5)
        assert await stdout_of(client, finished.id) == b"out\0\xff"


async def test_a_job_that_ran_is_lost_after_a_crash(pki: TestPki, tmp_path: Path) -> None:
    """Its end is not made up: LOST, with the reason, and with the output that was recorded."""
    async with after_a_crash(pki, tmp_path / "state") as (client, _, running, _):
        job = await client.query(running.id)
        assert (job.state, job.reason) == (JobState.LOST, "LAUNCHER_LOST")
        assert (job.exit_code, job.signal, job.pid) == (None, None, running.pid)
        assert job.ended_at is not None
        assert job.output_bytes == 6
        assert await stdout_of(client, running.id) == b"begun\n"


async def test_a_job_that_waited_runs_after_a_crash(pki: TestPki, tmp_path: Path) -> None:
    """What was accepted is run, as it was asked for."""
    async with after_a_crash(pki, tmp_path / "state") as (client, _, _, waiting):
        (job,) = await client.wait(waiting.id)
        assert (job.state, job.exit_code) == (JobState.SUCCEEDED, 0)
        assert (job.spec, job.started_by) == (waiting.spec, "alice")
        assert await stdout_of(client, waiting.id) == b"late\n"


# ---- certificates of its own


def test_a_certificate_that_no_client_would_accept_is_refused_at_the_start(pki: TestPki, tmp_path: Path) -> None:
    """One of a client, and one that has expired: better said here than by every client."""
    for name, why in (("alice", "was not made for a server"), ("expired", "and not now")):
        flags = [*flags_for(pki, tmp_path / "state"), "--cert", str(pki.certificate(name)), "--key", str(pki.key(name))]
        assert why in refused(flags, clean_environment(tmp_path))
