"""``jobcli run -i`` and what else gives a job a stdin, from pipes, files and devices."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.daemon import JobdProgram, jobd_program
from tests.support.jobcli_program import environment, jobcli
from tests.support.patience import patient
from tests.support.pki import TestPki

DATA: Final = random.Random(1).randbytes(3_000_000)


@pytest.fixture
def jobd(pki: TestPki, tmp_path: Path) -> Iterator[JobdProgram]:
    with jobd_program(pki, tmp_path / "state") as program:
        yield program


def test_a_pipe_is_fed_to_its_end(jobd: JobdProgram, pki: TestPki) -> None:
    """Byte for byte, and the code is the job's."""
    done = jobcli(jobd, pki, "run", "-i", "--", "sh", "-c", "sha256sum; exit 3", input=DATA)
    assert done.returncode == 3
    assert done.stdout.split()[0].decode() == hashlib.sha256(DATA).hexdigest()
    assert done.stderr == b""


def test_a_file_is_fed_to_its_end(jobd: JobdProgram, pki: TestPki, tmp_path: Path) -> None:
    """It has no event that there is something to read; there always is."""
    (tmp_path / "data").write_bytes(DATA)
    with (tmp_path / "data").open("rb") as file:
        done = jobcli(jobd, pki, "run", "-i", "--", "sha256sum", stdin=file)
    assert done.stdout.split()[0].decode() == hashlib.sha256(DATA).hexdigest()


def test_nothing_is_the_end_at_once(jobd: JobdProgram, pki: TestPki) -> None:
    """/dev/null, as in any script."""
    done = jobcli(jobd, pki, "run", "-i", "--", "cat")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_job_that_does_not_read_ends_it_all_the_same(jobd: JobdProgram, pki: TestPki) -> None:
    """An endless stdin holds nobody up; one that stays open and silent neither."""
    reading, writing = os.pipe()
    try:
        with Path("/dev/zero").open("rb") as zero:
            for stdin in (zero.fileno(), reading):
                done = jobcli(jobd, pki, "run", "-i", "--", "sh", "-c", "exec 0<&-; sleep 0.2; exit 4", stdin=stdin)
                assert (done.returncode, done.stderr) == (4, b"")
            for command, code in ((["true"], 0), (["no-such-command"], 127)):
                assert jobcli(jobd, pki, "run", "-i", "--", *command, stdin=reading).returncode == code
        assert not fcntl.fcntl(reading, fcntl.F_GETFL) & os.O_NONBLOCK  # others have it too
    finally:
        os.close(reading)
        os.close(writing)


def test_given_bytes(jobd: JobdProgram, pki: TestPki, tmp_path: Path) -> None:
    """They go with the job, which need not be waited for."""
    (tmp_path / "input").write_bytes(DATA[:1_000_000])
    started = jobcli(jobd, pki, "start", "--stdin", str(tmp_path / "input"), "--", "sha256sum")
    output = jobcli(jobd, pki, "stream", started.stdout.decode().strip()).stdout
    assert output.split()[0].decode() == hashlib.sha256(DATA[:1_000_000]).hexdigest()
    assert jobcli(jobd, pki, "run", "--stdin", str(tmp_path / "input"), "--", "sha256sum").stdout == output
    assert b"1000000 bytes" in jobcli(jobd, pki, "query", started.stdout.decode().strip()).stdout


def test_written_in_turns(jobd: JobdProgram, pki: TestPki) -> None:
    """A job that was started with -i reads what one after another attaches with, and the end when one of them ends."""
    job = jobcli(jobd, pki, "start", "-i", "--", "cat").stdout.decode().strip()
    command = [sys.executable, "-m", "jobcli", "attach", "--from", "0", job]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(jobd, pki)) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        first.stdin.write(b"one\n")
        first.stdin.flush()
        assert first.stdout.readline() == b"one\n"
        first.terminate()
        assert first.wait() == 128 + 15
    done = jobcli(jobd, pki, "attach", "--from", "0", job, input=b"two\n")
    assert (done.returncode, done.stdout) == (0, b"one\ntwo\n")


def test_input_that_was_on_its_way_at_a_kill(jobd: JobdProgram, pki: TestPki) -> None:
    """Its number of bytes is told, with 125: what the job has of it, it alone knows. It goes on."""
    command = [sys.executable, "-m", "jobcli", "run", "-i", "--", "sleep", "1000"]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(jobd, pki), **options) as fed:
        assert fed.stdin is not None
        for _ in range(16):  # a MiB: more than the job's pipe, and what jobcli may have read and not sent, can hold
            fed.stdin.write(bytes(65536))
            fed.stdin.flush()
        jobd.kill_server()
        _, errors = fed.communicate(timeout=patient(30))
    assert fed.returncode == 125
    told = re.fullmatch(
        rb"jobcli: the connection was lost with (\d+) bytes of input on their way, which the job may or may not have "
        rb"got, after the (\d+) that it has for certain \([^\n]+\); the job goes on, and 'jobcli attach (\w+)' "
        rb"attaches again\n",
        errors,
    )
    assert told, errors
    assert int(told[1]) > 0
    assert int(told[2]) <= 256 * 1024
    assert jobcli(jobd, pki, "stop", "--grace", "0", told[3].decode()).returncode == 0


BAD_USAGE: Final = [
    (["run", "-i", "--stdin", "/dev/null", "--", "cat"], "--stdin, -i and -t"),
    (["start", "-i", "--stdin", "/dev/null", "--", "cat"], "--stdin and -i"),
    (["start", "--stdin", "/no/such/file", "--", "cat"], "No such file"),
    (["start", "--stdin", "/dev/zero", "--", "cat"], "more than 1048576 bytes"),
    (["run", "-t", "--detach-keys", "ctrl-1", "--", "cat"], "ctrl-1"),
    (["attach", "--from", "1", "-n", "1", "00000000"], "one of them"),
    (["attach", "0000000"], "no job"),
]


def test_bad_usage(jobd: JobdProgram, pki: TestPki) -> None:
    """One sentence, 125, and nothing is started."""
    for arguments, words in BAD_USAGE:
        done = jobcli(jobd, pki, *arguments)
        assert (done.returncode, done.stdout) == (125, b""), arguments
        assert words in done.stderr.decode()
        assert done.stderr.count(b"\n") == 1
    assert jobcli(jobd, pki, "list", "--json").stdout == b""


def test_a_reader_may_not_attach(jobd: JobdProgram, pki: TestPki) -> None:
    """Reading is not writing."""
    job = jobcli(jobd, pki, "start", "-i", "--", "cat").stdout.decode().strip()
    done = jobcli(jobd, pki, "attach", job, who="rita")
    assert done.returncode == 125
    assert b"may not call Attach" in done.stderr
