"""The real ``jobcli``, in a process of its own, against a daemon: what it prints where, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from api.client import JobClient
from api.messages import JobState
from api.version import VERSION
from tests.integration.conftest import Connect
from tests.support.daemon import running_daemon
from tests.support.pki import TestPki

ROOT = Path(__file__).parents[2]
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
NO_JOB = "00000000-0000-4000-8000-000000000000"
OUR_FAILURE = 125
SECONDS = 30
"""No jobcli here may run longer."""


@dataclass(frozen=True)
class Ended:
    """How a jobcli ended."""

    code: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def error(self) -> str:
        return self.err.decode()


@dataclass(frozen=True)
class Jobcli:
    """Runs jobcli with an environment of its own: nothing of the developer's is in it."""

    environment: Mapping[str, str]
    arguments: list[str] = field(default_factory=list)

    def but(self, **environment: str | None) -> Jobcli:
        """The same with other variables (None: without)."""
        changed = {**self.environment, **environment}
        return Jobcli({name: value for name, value in changed.items() if value is not None}, self.arguments)

    async def __call__(self, *arguments: str) -> Ended:
        command = [sys.executable, "-m", "jobcli", *arguments]
        with trio.fail_after(SECONDS):
            done = await trio.run_process(
                command, capture_stdout=True, capture_stderr=True, check=False, env=self.environment
            )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return Ended(done.returncode, done.stdout, done.stderr)

    async def ok(self, *arguments: str) -> str:
        """Run it, see that it succeeds without a word on stderr, and give what it printed."""
        ended = await self(*arguments)
        assert (ended.code, ended.error) == (0, "")
        return ended.text

    async def fails(self, *arguments: str) -> str:
        """Run it, see that it fails with 125, one sentence on stderr and nothing on stdout; give the sentence."""
        ended = await self(*arguments)
        assert (ended.code, ended.text) == (OUR_FAILURE, ""), ended.error
        assert re.fullmatch(r"jobcli: [^\n]+\n", ended.error)
        return ended.error.removeprefix("jobcli: ").rstrip("\n")

    @asynccontextmanager
    async def running(self, *arguments: str) -> AsyncIterator[trio.Process]:
        """A jobcli to talk to while it runs."""
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "jobcli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            with trio.fail_after(SECONDS):
                yield process
        finally:
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()
                await process.stdout.aclose()
                await process.stderr.aclose()


async def read_until(stream: trio.abc.ReceiveStream | None, mark: bytes) -> bytes:
    """Read until a text has come."""
    assert stream is not None
    received = bytearray()
    while mark not in received:
        data = await stream.receive_some()
        assert data, f"ended before {mark!r}: {bytes(received)!r}"
        received += data
    return bytes(received)


async def read_all(stream: trio.abc.ReceiveStream | None) -> bytes:
    """Read to the end."""
    assert stream is not None
    return b"".join([data async for data in stream])


async def last_words(process: trio.Process) -> tuple[int, bytes, str]:
    """The exit code, and what still came on stdout and stderr."""
    out, err = await read_all(process.stdout), await read_all(process.stderr)
    code = await process.wait()
    assert b"Traceback" not in err, err.decode()
    return code, out, err.decode()


def environment_for(pki: TestPki, home: Path, server: str, name: str = "alice") -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "LC_ALL": "C.UTF-8",
        "JOBCLI_SERVER": server,
        **{f"JOBCLI_{key.upper()}": str(path) for key, path in pki.credentials(name).items()},
    }


@pytest.fixture
def jobcli(pki: TestPki, tmp_path: Path, server: str) -> Jobcli:
    """The writer's jobcli."""
    return Jobcli(environment_for(pki, tmp_path, server))


@pytest.fixture
def offline(pki: TestPki, tmp_path: Path) -> Jobcli:
    """A jobcli with settings for a server that is not there; for what is wrong before any contact."""
    return Jobcli(environment_for(pki, tmp_path, "localhost:1"))


@pytest.fixture
async def client(connect: Connect) -> AsyncIterator[JobClient]:
    """The writer, to prepare jobs and to look at them."""
    async with connect() as client:
        yield client


# ---- start


async def test_start_prints_the_id_alone(jobcli: Jobcli, client: JobClient) -> None:
    """One line on stdout, the id, for scripts; and the job is there."""
    printed = await jobcli.ok("start", "--name", "n", "--env", "A=b=c", "--cwd", "/tmp", "--", "echo", "--json", "-x")
    assert UUID.fullmatch(printed.removesuffix("\n"))
    job = await client.query(printed.strip())
    assert (job.spec.argv, job.spec.name, job.spec.env, job.spec.cwd) == (
        ["echo", "--json", "-x"],
        "n",
        {"A": "b=c"},
        "/tmp",
    )


async def test_start_does_not_wait_for_the_end(jobcli: Jobcli, client: JobClient) -> None:
    """The job runs on when jobcli has ended."""
    job_id = (await jobcli.ok("start", "--", "sleep", "1000")).strip()
    assert (await client.query(job_id)).state == JobState.RUNNING


@pytest.mark.parametrize(("command", "code"), [("no-such-command", 127), ("/etc/passwd", 126)])
async def test_start_says_that_a_command_cannot_be_started(jobcli: Jobcli, command: str, code: int) -> None:
    """The id is on stdout, since there is a job; why it did not start is on stderr and in the exit code."""
    ended = await jobcli("start", "--", command)
    assert ended.code == code
    assert UUID.fullmatch(ended.text.strip())
    assert re.fullmatch(r"jobcli: job [0-9a-f]{8} was not started: .+\n", ended.error)
    assert command in ended.error


JOBS = """
[first]
argv = ["sh", "-c", "echo $WORD $PWD"]
env = { WORD = "one" }
cwd = "/tmp"

[second]
name = "another name"
argv = ["echo", "two"]
"""


async def test_start_takes_several_jobs_from_a_file(jobcli: Jobcli, client: JobClient, tmp_path: Path) -> None:
    """An id a line, in the order of the file; the tables' keys are the jobs'."""
    file = tmp_path / "jobs.toml"
    file.write_text(JOBS)
    ids = (await jobcli.ok("start", "--file", str(file))).splitlines()
    first, second = await client.wait(*ids)
    assert (first.spec.name, first.spec.env, first.spec.cwd) == ("first", {"WORD": "one"}, "/tmp")
    assert (second.spec.name, second.spec.argv) == ("another name", ["echo", "two"])
    assert await jobcli.ok("stream", first.id) == "one /tmp\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("argv = [", "is not TOML", id="no TOML"),
        pytest.param("\udcff", "is not TOML", id="no UTF-8"),
        pytest.param("", "has no job", id="empty"),
        pytest.param('argv = ["true"]', "'argv' is not a table; write [argv]", id="no table"),
        pytest.param('[a]\nargv = ["true"]\n[b]\n', "[b] needs argv", id="no argv"),
        pytest.param('[a]\nargv = "true"', "[a] needs argv, a list of texts", id="argv is a text"),
        pytest.param('[a]\nargv = ["true"]\nevn = {}', "[a] has an unknown key 'evn'", id="unknown key"),
        pytest.param('[a]\nargv = ["true"]\nenv = { A = 1 }', "[a] has an env", id="env of numbers"),
        pytest.param('[a]\nargv = ["true"]\ncwd = 1', "[a] has a name or cwd", id="cwd is a number"),
        pytest.param('[a]\nargv = ["true"]\n[a]\nargv = ["true"]', "is not TOML", id="the same table twice"),
    ],
)
async def test_a_bad_job_file_starts_nothing(
    jobcli: Jobcli, client: JobClient, tmp_path: Path, text: str, told: str
) -> None:
    """All or nothing: the file is read to its end before the first job; the message names file, table and key."""
    file = tmp_path / "jobs.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    message = await jobcli.fails("start", "--file", str(file))
    assert str(file) in message
    assert told in message
    assert [job async for job in client.list()] == []


async def test_a_job_file_excludes_a_command(offline: Jobcli, tmp_path: Path) -> None:
    """Two sources for what to run are one too many."""
    assert "--file says what to run" in await offline.fails("start", "--file", str(tmp_path), "--", "true")


async def test_a_job_file_that_is_not_there_is_named(offline: Jobcli, tmp_path: Path) -> None:
    """The path and the reason of the system."""
    told = await offline.fails("start", "--file", str(tmp_path / "none.toml"))
    assert told == f"cannot read the job file {tmp_path}/none.toml: No such file or directory"


# ---- run


async def test_run_copies_output_byte_for_byte(jobcli: Jobcli, tmp_path: Path) -> None:
    """Stdout to stdout, stderr to stderr: random bytes, NULs, no newline at the end, and nothing added."""
    out, err = os.urandom(300_000) + b"\0no newline", b"\0\xff" + os.urandom(70_000) + b"\r"
    (tmp_path / "out").write_bytes(out)
    (tmp_path / "err").write_bytes(err)
    ended = await jobcli("run", "--cwd", str(tmp_path), "--", "sh", "-c", "cat out; cat err >&2")
    assert ended.code == 0
    assert ended.out == out
    assert ended.err == err


async def test_run_gives_arguments_on_as_they_are(jobcli: Jobcli) -> None:
    """After -- nothing is jobcli's: flags, a second --, empty and blank arguments."""
    arguments = ["--json", "--", "", " ", "-h", "*", "$HOME", "\u00e9"]
    printed = await jobcli.ok("run", "--", "sh", "-c", 'printf "%s|" "$@"', "sh", *arguments)
    assert printed == "|".join(arguments) + "|"


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 77", 77),
        ("exit 255", 255),
        ("kill -TERM $$", 128 + 15),
        ("kill -KILL $$", 128 + 9),
    ],
)
async def test_run_ends_as_the_job_ended(jobcli: Jobcli, script: str, code: int) -> None:
    """The job's own code, or 128 and the signal; a signal is also said in words."""
    ended = await jobcli("run", "--", "sh", "-c", script)
    assert (ended.code, ended.text) == (code, "")
    if code >= 128 and code != 255:
        assert re.fullmatch(
            rf"jobcli: job [0-9a-f]{{8}} killed: ended by {signal.Signals(code - 128).name}\n", ended.error
        )
    else:
        assert ended.error == ""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--", "no-such-command"], 127),
        (["--", "/etc/passwd"], 126),
        (["--", "/tmp"], 126),
        (["--cwd", "/no/such/directory", "--", "true"], 125),
    ],
)
async def test_run_ends_like_docker_run_when_nothing_ran(jobcli: Jobcli, arguments: list[str], code: int) -> None:
    """127: not there; 126: cannot be executed; 125: anything else; and one sentence that says why."""
    ended = await jobcli("run", *arguments)
    assert (ended.code, ended.text) == (code, "")
    assert re.fullmatch(r"jobcli: job [0-9a-f]{8} start_failed: [^\n]+\n", ended.error)


async def test_run_says_that_a_job_waits(pki: TestPki, tmp_path: Path) -> None:
    """With no free worker the person at the terminal is told, on stderr; stdout is the job's alone."""
    async with (
        running_daemon(pki, tmp_path / "state", slots=1) as address,
        JobClient.connect(address, **pki.credentials("alice"), retry_for=0) as client,
    ):
        jobcli = Jobcli(environment_for(pki, tmp_path, address))
        first = await client.start(["sleep", "1000"])
        async with jobcli.running("run", "--", "echo", "at last") as process:
            note = await read_until(process.stderr, b"\n")
            await client.stop(first.id)
            assert await last_words(process) == (0, b"at last\n", "")
        assert re.fullmatch(rb"jobcli: job [0-9a-f]{8} waits: every slot of every worker is taken\n", note)


async def test_run_passes_ctrl_c_to_the_job(jobcli: Jobcli) -> None:
    """The job's own trap runs, what it writes then still arrives, and its exit code is jobcli's."""
    script = 'trap "echo caught; exit 9" INT; echo ready; while :; do sleep 0.02; done'
    async with jobcli.running("run", "--", "sh", "-c", script) as process:
        await read_until(process.stdout, b"ready\n")
        process.send_signal(signal.SIGINT)
        assert await last_words(process) == (9, b"caught\n", "")


async def test_run_passes_ctrl_c_to_a_job_that_does_nothing_about_it(jobcli: Jobcli, client: JobClient) -> None:
    """Ended by the signal that its caller sent, the job counts as stopped, and the code is 128+2."""
    async with jobcli.running("run", "--", "sh", "-c", "echo ready; exec sleep 1000") as process:
        await read_until(process.stdout, b"ready\n")
        process.send_signal(signal.SIGINT)
        code, out, _ = await last_words(process)
    assert (code, out) == (128 + signal.SIGINT, b"")
    (job,) = [job async for job in client.list()]
    assert (job.state, job.signal, job.stopped_by) == (JobState.STOPPED, signal.SIGINT, "alice")


async def test_a_second_ctrl_c_stops_a_job_that_ignores_the_first(jobcli: Jobcli, client: JobClient) -> None:
    """Asked again, run stops the job as 'jobcli stop' would."""
    script = 'trap "echo no" INT; trap "echo stopping; exit 3" TERM; echo ready; while :; do sleep 0.02; done'
    async with jobcli.running("run", "--", "sh", "-c", script) as process:
        await read_until(process.stdout, b"ready\n")
        process.send_signal(signal.SIGINT)
        await read_until(process.stdout, b"no\n")
        process.send_signal(signal.SIGINT)
        code, out, err = await last_words(process)
    assert (code, out) == (3, b"stopping\n")
    assert "press Ctrl-C again to kill it" in err
    (job,) = [job async for job in client.list()]
    assert (job.state, job.stopped_by) == (JobState.STOPPED, "alice")


# ---- nobody reads any more


async def test_run_ends_when_nobody_reads_its_output(jobcli: Jobcli) -> None:
    """As in 'jobcli run … | head -c 1': 141 (128 and SIGPIPE), without a word."""
    async with jobcli.running("run", "--", "seq", "1000000") as process:
        assert process.stdout is not None
        assert await process.stdout.receive_some(1) == b"1"
        await process.stdout.aclose()
        assert await process.wait() == 141
        assert await read_all(process.stderr) == b""


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["query", "ID"], ["workers"]], ids=" ".join)
async def test_facts_that_nobody_reads_end_quietly(jobcli: Jobcli, client: JobClient, arguments: list[str]) -> None:
    """Whatever the verb: 141, without a word."""
    job = await client.start(["true"])
    await client.wait(job.id)
    async with jobcli.running(*[job.id if each == "ID" else each for each in arguments]) as process:
        assert process.stdout is not None
        await process.stdout.aclose()
        assert await process.wait() == 141
        assert await read_all(process.stderr) == b""


async def test_a_stream_in_a_real_pipeline_ends_quietly(jobcli: Jobcli, client: JobClient) -> None:
    """'jobcli stream ID | head -c 1' in a shell."""
    job = await client.start(["seq", "1000000"])
    script = f"set -o pipefail; {sys.executable} -m jobcli stream {job.id} | head -c 1"
    with trio.fail_after(SECONDS):
        done = await trio.run_process(
            ["bash", "-c", script], capture_stdout=True, capture_stderr=True, check=False, env=jobcli.environment
        )
    assert (done.returncode, done.stdout, done.stderr) == (141, b"1", b"")


# ---- our failures: 125 and one sentence


async def test_no_contact_is_said(offline: Jobcli) -> None:
    """The address, and what to look for."""
    told = await offline.fails("--retry-for", "0", "list")
    assert told.startswith("nobody answers at localhost:1: ")
    assert told.endswith("is jobd running there?")


async def test_a_flag_of_the_connection_may_stand_after_the_verb(offline: Jobcli) -> None:
    """Before or after the verb, it is the same flag."""
    assert "localhost:2" in await offline.fails("list", "--server", "localhost:2", "--retry-for", "0")


async def test_a_lost_contact_is_tried_again_for_as_long_as_told(offline: Jobcli) -> None:
    """--retry-for is in seconds; after them, it is 125."""
    started = trio.current_time()
    await offline.fails("list", "--retry-for", "0.5")
    assert trio.current_time() - started >= 0.5


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-verb"],
        ["list", "--lim", "1"],  # no abbreviations: a later flag must not change what a script means
        ["list", "--limit", "0"],
        ["list", "--state", "no-such-state"],
        ["list", "--", "true"],
        ["query"],
        ["stream", "a", "b", "--from", "1"],
        ["signal", "a", "NOSUCH"],
        ["run"],
        ["run", "--env", "A", "--", "true"],
        ["--retry-for", "soon", "list"],
        ["--server", "localhost", "list"],
    ],
    ids=" ".join,
)
async def test_bad_usage_is_said(offline: Jobcli, arguments: list[str]) -> None:
    """One sentence and 125, before any contact: 1 and 2 are codes of jobs."""
    assert "nobody answers" not in await offline.fails(*arguments)


async def test_an_argument_that_is_not_utf_8_is_said(offline: Jobcli) -> None:
    """The protocol carries text; what is none cannot be an argument."""
    assert "is not UTF-8" in await offline.fails("run", "--", "echo", os.fsdecode(b"\xff"))


async def test_a_reader_who_starts_something_is_told_why_not(pki: TestPki, tmp_path: Path, server: str) -> None:
    """The refusal in the server's words."""
    told = await Jobcli(environment_for(pki, tmp_path, server, "rita")).fails("run", "--", "true")
    assert told.startswith("rita may not call Start: it needs the role writer")


async def test_a_certificate_that_is_refused_is_said(pki: TestPki, tmp_path: Path, server: str) -> None:
    """At once, whatever --retry-for is, and with the reason."""
    told = await Jobcli(environment_for(pki, tmp_path, server, "expired")).fails("list")
    assert "it has expired; have a new one signed" in told


@pytest.mark.parametrize("verb", ["query", "stream"])
async def test_an_unknown_id_is_said(jobcli: Jobcli, verb: str) -> None:
    """With the id, and how to find those that there are."""
    told = await jobcli.fails(verb, NO_JOB)
    assert told == f"there is no job {NO_JOB}; 'jobcli list' shows those that there are"


async def test_what_is_no_id_is_said(jobcli: Jobcli) -> None:
    """Escaped, so that it cannot move the cursor."""
    assert "'\\x1b[2J' is not a job id" in await jobcli.fails("query", "\x1b[2J")


@pytest.mark.parametrize("what", ["cert", "key", "ca"])
async def test_a_missing_file_is_named(offline: Jobcli, tmp_path: Path, what: str) -> None:
    """Its kind, its path and the system's reason."""
    told = await offline.fails("list", f"--{what}", str(tmp_path / "none"))
    assert str(tmp_path / "none") in told
    assert told.startswith("cannot read the ")
    assert told.endswith(": No such file or directory")


async def test_an_unreadable_key_is_named(offline: Jobcli, tmp_path: Path) -> None:
    """A directory is as unreadable as a file of somebody else's, for root too."""
    assert await offline.fails("list", "--key", str(tmp_path)) == (
        f"cannot read the private key {tmp_path}: Is a directory"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
async def test_a_key_of_somebody_else_is_named(offline: Jobcli, tmp_path: Path) -> None:
    """Permission denied, with the path."""
    key = tmp_path / "secret.key"
    key.touch(mode=0)
    assert await offline.fails("list", "--key", str(key)) == f"cannot read the private key {key}: Permission denied"


async def test_a_key_of_another_certificate_is_said(offline: Jobcli, pki: TestPki) -> None:
    """Both files are named."""
    told = await offline.fails("list", "--key", str(pki.key("rita")))
    assert told == f"the private key {pki.key('rita')} does not belong to the certificate {pki.certificate('alice')}"


@pytest.mark.parametrize("what", ["cert", "key", "ca"])
async def test_a_file_that_is_no_pem_is_named(offline: Jobcli, tmp_path: Path, what: str) -> None:
    """What OpenSSL cannot read is said by name, not by an OpenSSL error code."""
    file = tmp_path / "noise"
    file.write_bytes(os.urandom(100))
    assert str(file) in await offline.fails("list", f"--{what}", str(file))


async def test_missing_settings_are_all_named(offline: Jobcli) -> None:
    """With the ways to give them."""
    bare = offline.but(JOBCLI_SERVER=None, JOBCLI_CERT=None, JOBCLI_KEY=None, JOBCLI_CA=None)
    told = await bare.fails("list")
    assert told.startswith("missing: --server, --cert, --key, --ca ")
    assert "jobd dev" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("server = ", "is not TOML"),
        ('sever = "localhost:1"', "has 'sever'"),
        ("server = 1", "has 'server'"),
        ('[profile]\nserver = "x"', "has 'profile'"),
    ],
)
async def test_a_bad_profile_is_named(offline: Jobcli, tmp_path: Path, text: str, told: str) -> None:
    """The path, and what is wrong in it."""
    profile = tmp_path / "bad.toml"
    profile.write_text(text)
    message = await offline.but(JOBCLI_SERVER=None).fails("list", "--profile", str(profile))
    assert f"the profile {profile} {told}" in message


async def test_a_profile_that_is_not_there_is_named(offline: Jobcli, tmp_path: Path) -> None:
    """One that was asked for must be there."""
    told = await offline.but(JOBCLI_SERVER=None).fails("list", "--profile", str(tmp_path / "none.toml"))
    assert told == f"cannot read the profile {tmp_path}/none.toml: No such file or directory"


async def test_help_is_no_failure(offline: Jobcli) -> None:
    """--help goes to stdout and ends with 0, for jobcli and for a verb."""
    assert "Exit codes" in await offline.ok("--help")
    assert "--from OFFSET" in await offline.ok("stream", "--help")


# ---- stop, query, list, wait, workers, signal


async def test_stop_says_how_each_job_ended(jobcli: Jobcli, client: JobClient) -> None:
    """A line a job, in the order asked for, and below it the receipt."""
    jobs = [await client.start(["sleep", "1000"]) for _ in range(2)]
    lines = (await jobcli.ok("stop", *[job.id for job in jobs])).splitlines()
    assert lines[::3] == [f"{job.id}  stopped: ended by SIGTERM; alice asked for it" for job in jobs]
    assert all(re.fullmatch(r"  1 process in [0-9.]+ s; nothing is left \(\S+\)", line) for line in lines[1::3])
    assert [line.split() for line in lines[2::3]] == [
        [str(job.pid), "sleep", "ended", "after", "SIGTERM"] for job in jobs
    ]
    assert {(await client.query(job.id)).state for job in jobs} == {JobState.STOPPED}


async def test_stop_without_grace_kills(jobcli: Jobcli, client: JobClient) -> None:
    """--grace 0 is SIGKILL at once."""
    job = await client.start(["sh", "-c", 'trap "" TERM; echo ready; while :; do sleep 0.02; done'])
    async with client.stream(job.id) as output:
        await anext(output)
    facts = json.loads(await jobcli.ok("stop", "--json", "--grace", "0", job.id))
    assert (facts["state"], facts["signal"], facts["stopped_by"]) == ("stopped", 9, "alice")


async def test_query_tells_the_facts_a_line_each(jobcli: Jobcli, client: JobClient) -> None:
    """For people: what is known, and only that, with words that a shell takes."""
    job = await client.start(["sh", "-c", "echo x; exit 3"], name="my job", env={"A": "b c"})
    await client.wait(job.id)
    printed = await jobcli.ok("query", job.id[:8])
    facts = dict(line.split(":", 1) for line in printed.splitlines())
    assert {
        key: value.strip() for key, value in facts.items() if not key.endswith(("_at", "pid", "dropped_bytes", "usage"))
    } == {
        "id": job.id,
        "name": "my job",
        "argv": "sh -c 'echo x; exit 3'",
        "env": "A='b c'",
        "state": "failed",
        "reason": "EXITED",
        "message": "exited with code 3",
        "exit_code": "3",
        "worker": job.worker,
        "started_by": "alice",
        "output_bytes": "2",
    }


async def test_query_tells_that_a_job_exited_with_0(jobcli: Jobcli, client: JobClient) -> None:
    """Nought is a fact: the exit code of a job that succeeded, and the size of its empty output."""
    job = await client.start(["true"])
    await client.wait(job.id)
    facts = dict(line.split(":", 1) for line in (await jobcli.ok("query", job.id)).splitlines())
    assert {key: facts.get(key, "").strip() for key in ("exit_code", "output_bytes")} == {
        "exit_code": "0",
        "output_bytes": "0",
    }


async def test_query_escapes_what_could_move_the_cursor(jobcli: Jobcli, client: JobClient) -> None:
    """Arguments are a stranger's text."""
    job = await client.start(["echo", "\x1b[2J\u202e\nname: forged"])
    printed = await jobcli.ok("query", job.id)
    assert all(line.isprintable() for line in printed.splitlines())
    assert "\nname: forged" not in printed


TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


async def test_query_as_json_has_every_fact(jobcli: Jobcli, client: JobClient) -> None:
    """One line of JSON with every key, whatever the job; times in RFC 3339, unknown facts null."""
    job = await client.start(["sh", "-c", "echo abc; kill -9 $$"], name="n")
    await client.wait(job.id)
    printed = await jobcli.ok("query", "--json", job.id)
    assert printed.count("\n") == 1
    facts = json.loads(printed)
    times = [facts.pop(f"{moment}_at") for moment in ("created", "started", "ended")]
    assert all(TIME.fullmatch(time) for time in times)
    assert times == sorted(times)
    usage = facts.pop("usage")
    assert usage is None or set(usage) <= {
        *("cpu_seconds", "memory_peak_bytes", "read_bytes", "written_bytes", "processes")
    }
    assert facts == {
        "id": job.id,
        "name": "n",
        "argv": ["sh", "-c", "echo abc; kill -9 $$"],
        "env": {},
        "cwd": "",
        "state": "killed",
        "stopping": False,
        "reason": "SIGNALLED",
        "message": "ended by SIGKILL",
        "exit_code": None,
        "signal": 9,
        "core_dumped": False,
        "pid": job.pid,
        "worker": job.worker,
        "started_by": "alice",
        "stopped_by": None,
        "output_bytes": 4,
        "dropped_bytes": 0,
        "limits": None,
        "stop_receipt": None,
    }


async def test_query_takes_several_jobs(jobcli: Jobcli, client: JobClient) -> None:
    """As JSON, a line each, in the order asked for."""
    ids = [(await client.start(["true"])).id for _ in range(3)]
    printed = await jobcli.ok("query", "--json", *ids)
    assert [json.loads(line)["id"] for line in printed.splitlines()] == ids


@pytest.fixture
async def three(client: JobClient) -> list[str]:
    """A job that succeeded, one that failed, one that runs."""
    jobs = [
        await client.start(["true"], name="good"),
        await client.start(["false"], name="bad"),
        await client.start(["sleep", "1000"], name="long"),
    ]
    await client.wait(jobs[0].id, jobs[1].id)
    return [job.id for job in jobs]


async def test_list_is_a_table_newest_first(jobcli: Jobcli, three: list[str]) -> None:
    """A heading, and a line a job."""
    heading, *lines = (await jobcli.ok("list")).splitlines()
    assert heading.split() == ["ID", "STATE", "EXIT", "NAME", "WORKER", "BY", "CREATED", "OUTPUT", "COMMAND"]
    assert [line.split()[0] for line in lines] == [job_id[:8] for job_id in reversed(three)]
    assert [line.split()[1] for line in lines] == ["running", "failed", "succeeded"]
    assert lines[0].endswith("sleep 1000")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], ["long", "bad", "good"]),
        (["--limit", "2"], ["long", "bad"]),
        (["--state", "failed"], ["bad"]),
        (["--state", "failed", "--state", "succeeded"], ["bad", "good"]),
        (["--state", "failed", "--state", "succeeded", "--limit", "1"], ["bad"]),
        (["--state", "lost"], []),
    ],
)
async def test_list_as_json_is_a_job_a_line(
    jobcli: Jobcli, three: list[str], arguments: list[str], names: list[str]
) -> None:
    """All jobs, or those in some states, or the newest few."""
    printed = await jobcli.ok("list", "--json", *arguments)
    assert [json.loads(line)["name"] for line in printed.splitlines()] == names


async def test_a_reader_can_list(pki: TestPki, tmp_path: Path, server: str, three: list[str]) -> None:
    """Reading is for readers."""
    printed = await Jobcli(environment_for(pki, tmp_path, server, "rita")).ok("list", "--json")
    assert len(printed.splitlines()) == 3


@pytest.mark.parametrize(
    ("scripts", "code"),
    [
        (["exit 7"], 7),
        (["kill -9 $$"], 137),
        (["exit 0", "exit 0"], 0),
        (["exit 0", "exit 4", "exit 5"], 4),
    ],
)
async def test_wait_ends_as_the_first_job_that_did_not_succeed(
    jobcli: Jobcli, client: JobClient, scripts: list[str], code: int
) -> None:
    """First in the order asked for; each job has its line."""
    ids = [(await client.start(["sh", "-c", f"sleep 0.1; {script}"])).id for script in scripts]
    ended = await jobcli("wait", *ids)
    assert (ended.code, ended.error) == (code, "")
    assert [line.split()[0] for line in ended.text.splitlines()] == ids


async def test_wait_for_any_ends_with_the_first(jobcli: Jobcli, client: JobClient) -> None:
    """--any: those that go on are not waited for, and not in the answer."""
    long, short = await client.start(["sleep", "1000"]), await client.start(["sh", "-c", "exit 6"])
    ended = await jobcli("wait", "--any", long.id, short.id)
    assert (ended.code, ended.text) == (6, f"{short.id}  failed: exited with code 6\n")


async def test_wait_gives_up_after_its_timeout(jobcli: Jobcli, client: JobClient) -> None:
    """125: that the time is up is no verdict on the job."""
    job = await client.start(["sleep", "1000"])
    told = await jobcli.fails("wait", "--timeout", "0.2", job.id)
    assert "0.2 s" in told
    assert (await client.query(job.id)).state == JobState.RUNNING


async def test_workers_shows_the_pool(jobcli: Jobcli, client: JobClient) -> None:
    """For people: a line a worker with what it runs, and how many jobs wait."""
    await client.start(["sleep", "1000"], name="long")
    heading, worker, pending = (await jobcli.ok("workers")).splitlines()
    assert heading.split() == ["WORKER", "RUNNING", "SLOTS", "CONTAINMENT", "JOBS"]
    assert re.match(r"\S+ +1 +64 +(cgroup v[12]|cgroup v1 and v2|none) ", worker)
    assert "long" in worker
    assert pending == "0 pending"


async def test_workers_as_json_is_a_worker_a_line(jobcli: Jobcli, client: JobClient) -> None:
    """With the jobs that each has, as query shows them."""
    job = await client.start(["sleep", "1000"])
    (facts,) = map(json.loads, (await jobcli.ok("workers", "--json")).splitlines())
    assert (facts["running"], facts["slots"], facts["jobs"][0]["id"]) == (1, 64, job.id)


@pytest.mark.parametrize("name", ["USR1", "sigusr1", "10"])
async def test_signal_goes_to_the_job(jobcli: Jobcli, client: JobClient, name: str) -> None:
    """By name, with or without SIG, in any case, or by number."""
    job = await client.start(["sh", "-c", 'trap "exit 5" USR1; echo ready; while :; do sleep 0.02; done'])
    async with client.stream(job.id) as output:
        await anext(output)
    assert await jobcli.ok("signal", job.id, name) == ""
    (ended,) = await client.wait(job.id)
    assert ended.exit_code == 5


async def test_a_signal_to_a_job_that_has_ended_is_said(jobcli: Jobcli, client: JobClient) -> None:
    """There is nobody to get it."""
    job = await client.start(["true"])
    await client.wait(job.id)
    assert "there is no process to send a signal to" in await jobcli.fails("signal", job.id, "TERM")


# ---- stream


async def test_stream_gives_everything_from_the_first_byte(jobcli: Jobcli, client: JobClient) -> None:
    """However late it comes; each stream to its own; the code is 0 whatever the job's was."""
    job = await client.start(["sh", "-c", r"printf 'out\0'; printf 'err\377' >&2; exit 9"])
    await client.wait(job.id)
    ended = await jobcli("stream", job.id)
    assert ended == Ended(0, b"out\0", b"err\xff")


@pytest.mark.parametrize(("offset", "rest"), [("0", "0123456789"), ("4", "456789"), ("10", "")])
async def test_stream_begins_where_it_is_told(jobcli: Jobcli, client: JobClient, offset: str, rest: str) -> None:
    """--from is a byte offset; the end is one too."""
    job = await client.start(["printf", "0123456789"])
    await client.wait(job.id)
    assert await jobcli.ok("stream", job.id, "--from", offset) == rest


async def test_stream_from_beyond_the_end_is_said(jobcli: Jobcli, client: JobClient) -> None:
    """With both numbers."""
    job = await client.start(["printf", "0123456789"])
    await client.wait(job.id)
    told = await jobcli.fails("stream", "--from", "11", job.id)
    assert told == f"offset 11 is beyond the end of the output of job {job.id}, which is at 10"


async def test_stream_of_several_jobs_has_names_in_front(jobcli: Jobcli, client: JobClient) -> None:
    """Whole lines, each with its job's name (or the beginning of its id), the last one ended."""
    named = await client.start(["sh", "-c", r"printf 'a\nb'; echo e >&2"], name="first job")
    other = await client.start(["sh", "-c", r"echo c; printf '\377'"])
    await client.wait(named.id, other.id)
    ended = await jobcli("stream", named.id, other.id)
    assert ended.code == 0
    short = f"{other.id[:8]}  | ".encode()  # as wide as the longest name
    assert sorted(ended.out.splitlines(keepends=True)) == sorted(
        [b"first job | a\n", b"first job | b\n", short + b"c\n", short + b"\xff\n"]
    )
    assert ended.err == b"first job | e\n"


async def test_stream_tells_jobs_of_one_name_apart(jobcli: Jobcli, client: JobClient) -> None:
    """The same name twice is followed by the beginning of the id."""
    jobs = [await client.start(["echo", "x"], name="same") for _ in range(2)]
    printed = await jobcli.ok("stream", *[job.id for job in jobs])
    assert sorted(printed.splitlines()) == sorted(f"same@{job.id[:8]} | x" for job in jobs)


async def test_ctrl_c_detaches_a_stream(jobcli: Jobcli, client: JobClient) -> None:
    """The watcher ends with 130, without a word; the job goes on."""
    job = await client.start(["sh", "-c", "echo ready; exec sleep 1000"])
    async with jobcli.running("stream", job.id) as process:
        await read_until(process.stdout, b"ready\n")
        process.send_signal(signal.SIGINT)
        assert await last_words(process) == (130, b"", "")
    assert (await client.query(job.id)).state == JobState.RUNNING


async def test_ctrl_c_detaches_a_stream_of_several(jobcli: Jobcli, client: JobClient) -> None:
    """The same with several jobs."""
    jobs = [await client.start(["sh", "-c", "echo ready; exec sleep 1000"]) for _ in range(2)]
    async with jobcli.running("stream", *[job.id for job in jobs]) as process:
        await read_until(process.stdout, b"ready\n")
        process.send_signal(signal.SIGINT)
        code, _, err = await last_words(process)
    assert (code, err) == (130, "")
    assert {(await client.query(job.id)).state for job in jobs} == {JobState.RUNNING}


# ---- where settings come from


def write_profile(path: Path, server: str, pki: TestPki) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = {"server": server, **pki.credentials("alice")}
    path.write_text("".join(f"{key} = {json.dumps(str(value))}\n" for key, value in lines.items()))
    assert tomllib.loads(path.read_text())


def without_settings(jobcli: Jobcli) -> Jobcli:
    return jobcli.but(JOBCLI_SERVER=None, JOBCLI_CERT=None, JOBCLI_KEY=None, JOBCLI_CA=None)


Arrange = Callable[[Jobcli, Path, str, TestPki], tuple[Jobcli, list[str]]]


def _profile_file(jobcli: Jobcli, config: Path, server: str, pki: TestPki) -> tuple[Jobcli, list[str]]:
    write_profile(config / "jobcli/profile.toml", server, pki)
    return without_settings(jobcli), []


def _dev_file(jobcli: Jobcli, config: Path, server: str, pki: TestPki) -> tuple[Jobcli, list[str]]:
    write_profile(config / "jobcli/dev.toml", server, pki)
    return without_settings(jobcli), []


def _profile_over_dev(jobcli: Jobcli, config: Path, server: str, pki: TestPki) -> tuple[Jobcli, list[str]]:
    write_profile(config / "jobcli/profile.toml", server, pki)
    write_profile(config / "jobcli/dev.toml", "localhost:1", pki)
    return without_settings(jobcli), []


def _chosen_over_profile(jobcli: Jobcli, config: Path, server: str, pki: TestPki) -> tuple[Jobcli, list[str]]:
    write_profile(config / "jobcli/profile.toml", "localhost:1", pki)
    write_profile(config / "mine.toml", server, pki)
    return without_settings(jobcli), ["--profile", str(config / "mine.toml")]


def _environment_over_profile(jobcli: Jobcli, config: Path, server: str, pki: TestPki) -> tuple[Jobcli, list[str]]:
    write_profile(config / "jobcli/profile.toml", "localhost:1", pki)
    return without_settings(jobcli).but(JOBCLI_SERVER=server), []


def _flag_over_environment(jobcli: Jobcli, config: Path, server: str, pki: TestPki) -> tuple[Jobcli, list[str]]:
    write_profile(config / "jobcli/profile.toml", "localhost:2", pki)
    return without_settings(jobcli).but(JOBCLI_SERVER="localhost:1"), ["--server", server]


def _home(jobcli: Jobcli, config: Path, server: str, pki: TestPki) -> tuple[Jobcli, list[str]]:
    write_profile(config.parent / ".config/jobcli/profile.toml", server, pki)
    return without_settings(jobcli).but(XDG_CONFIG_HOME=None), []


def _beside_the_profile(jobcli: Jobcli, config: Path, server: str, pki: TestPki) -> tuple[Jobcli, list[str]]:
    path = config / "jobcli/profile.toml"
    write_profile(path, server, pki)
    for file in pki.credentials("alice").values():
        (path.parent / file.name).write_bytes(file.read_bytes())
    path.write_text(path.read_text().replace(f"{pki.directory}/", ""))
    return without_settings(jobcli), []


@pytest.mark.parametrize(
    "arrange",
    [
        _profile_file,
        _dev_file,
        _profile_over_dev,
        _chosen_over_profile,
        _environment_over_profile,
        _flag_over_environment,
        _home,
        _beside_the_profile,
    ],
)
async def test_a_flag_wins_over_the_environment_and_that_over_the_profile(
    jobcli: Jobcli, pki: TestPki, tmp_path: Path, server: str, arrange: Arrange
) -> None:
    """Each arrangement has the right address in the place that wins, and wrong ones below it."""
    arranged, arguments = arrange(jobcli, tmp_path / "config", server, pki)
    assert "pending" in await arranged.ok("workers", "--retry-for", "0", *arguments)


async def test_a_profile_that_is_not_needed_is_not_read(jobcli: Jobcli, tmp_path: Path) -> None:
    """With every setting given, a broken profile hinders nobody."""
    path = tmp_path / "config/jobcli/profile.toml"
    path.parent.mkdir(parents=True)
    path.write_text("no TOML")
    await jobcli.ok("workers")


async def test_stream_begins_with_the_last_lines_of_one_stream(jobcli: Jobcli) -> None:
    """--tail, --since and --only."""
    script = "for i in 1 2 3; do echo out $i; echo err $i >&2; done"
    job_id = (await jobcli.ok("start", "--", "sh", "-c", script)).strip()
    await jobcli.ok("wait", job_id)
    assert (await jobcli("stream", "--only", "stdout", "--tail", "99", job_id)).text == "out 1\nout 2\nout 3\n"
    assert await jobcli.ok("stream", "-n", "0", job_id) == ""
    since = await jobcli("stream", "--since", "1h", "--only", "stderr", job_id)
    assert (since.code, since.text, since.error) == (0, "", "err 1\nerr 2\nerr 3\n")


@pytest.mark.parametrize("flags", [("--since", "yesterday"), ("--tail", "3", "--from", "1"), ("--only", "stdin")])
async def test_a_beginning_that_makes_no_sense_is_said(offline: Jobcli, flags: tuple[str, ...]) -> None:
    """125, one sentence."""
    assert await offline.fails("stream", *flags, "abcd")


# ---- odd circumstances


async def sh(jobcli: Jobcli, script: str) -> Ended:
    """Run jobcli as "$@" in a shell script."""
    command = ["sh", "-c", script, "sh", sys.executable, "-m", "jobcli"]
    with trio.fail_after(SECONDS):
        done = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False, env=jobcli.environment
        )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return Ended(done.returncode, done.stdout, done.stderr)


async def test_a_full_disk_under_the_output_is_said(jobcli: Jobcli) -> None:
    """125 and one sentence, for facts and for output."""
    for verb in ("list", "run -- echo hi", "start -- true"):
        ended = await sh(jobcli, f'"$@" {verb} > /dev/full')
        assert (ended.code, ended.error) == (125, "jobcli: the output cannot be written: No space left on device\n")


async def test_closed_descriptors_are_not_written_into(jobcli: Jobcli) -> None:
    """What is opened next would take their numbers: the connection to the server, for example."""
    assert (await sh(jobcli, '"$@" run -- sh -c "echo hi; exit 3" <&- >&-')).code == 3
    ended = await sh(jobcli, '"$@" run -- sh -c "echo hi >&2; echo there; exit 4" 2>&-')
    assert (ended.code, ended.text) == (4, "there\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("wait", "--timeout", "-1", "abcd"),
        ("wait", "--timeout", "nan", "abcd"),
        ("stop", "--grace", "1e300", "abcd"),
        ("list", "--limit", "99999999999999999999"),
        ("stream", "--from", "9999999999999999999999", "abcd"),
        ("--retry-for", "-1", "list"),
        ("start", "--name", "\udcff", "--", "true"),
        ("start", "--env", "A=\udcff", "--", "true"),
        ("start", "--cwd", "/\udcff", "--", "true"),
    ],
)
async def test_values_that_cannot_be_are_said(offline: Jobcli, arguments: tuple[str, ...]) -> None:
    """By argparse or by us, before any contact."""
    assert await offline.fails(*arguments)


async def test_a_wait_that_is_given_up_says_that_the_job_goes_on(jobcli: Jobcli, client: JobClient) -> None:
    """125: the job has not ended."""
    job = await client.start(["sleep", "60"])
    assert await jobcli.fails("wait", "--timeout", "0.2", job.id) == "not ended within 0.2 s; the jobs go on"


def test_ctrl_c_while_it_starts_is_no_traceback(tmp_path: Path) -> None:
    """It ends as by the signal, before there was anything to say."""
    slow = tmp_path / "trio"
    slow.mkdir()
    (slow / "__init__.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n")
    done = subprocess.run(
        [sys.executable, "-m", "jobcli", "list"],
        capture_output=True,
        check=False,
        timeout=20,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "PYTHONSAFEPATH": "1"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


async def test_version(jobcli: Jobcli) -> None:
    """Of the whole project."""
    assert (await jobcli.ok("--version")).strip() == f"jobcli {VERSION}"


async def test_a_job_of_a_file_that_the_server_refuses_is_named(jobcli: Jobcli, tmp_path: Path) -> None:
    """With its table; those before it have their ids printed."""
    file = tmp_path / "jobs.toml"
    file.write_text('[good]\nargv = ["true"]\n[bad]\nargv = ["true"]\nnice = 99\n')
    ended = await jobcli("start", "--file", str(file))
    assert (ended.code, len(ended.text.split())) == (OUR_FAILURE, 1)
    assert "[bad]: spec.limits.nice: is 99" in ended.error
