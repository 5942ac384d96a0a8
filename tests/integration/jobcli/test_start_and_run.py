"""The real ``jobcli`` against a daemon. Start and run: what is printed, and how it ends."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import signal
from pathlib import Path

import pytest

from api.client import JobClient
from api.messages import IoClass, Isolation, JobState, Limits
from tests.support.daemon import running_daemon
from tests.support.jobcli import UUID, Jobcli, environment_for, last_words, read_until
from tests.support.pki import TestPki

OWN = pwd.getpwuid(os.geteuid())

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


async def test_start_says_whom_the_job_runs_as(jobcli: Jobcli, client: JobClient) -> None:
    """User, group and umask, which query shows."""
    group = grp.getgrgid(OWN.pw_gid).gr_name
    job_id = (await jobcli.ok("start", "--user", OWN.pw_name, "--umask", "0077", "--", "true")).strip()
    spec = (await client.query(job_id)).spec
    assert (spec.user, spec.group, spec.umask) == (OWN.pw_name, "", 0o077)
    shown = (await jobcli.ok("query", job_id)).split()
    assert shown[shown.index("user:") + 1] == OWN.pw_name
    assert shown[shown.index("umask:") + 1] == "077"
    if os.geteuid() == 0:
        job_id = (await jobcli.ok("start", "--group", group, "--", "true")).strip()
        assert (await client.query(job_id)).spec.group == group


@pytest.mark.parametrize("mask", ["8", "1000", "rwx", "-1", ""])
async def test_a_umask_is_octal(offline: Jobcli, mask: str) -> None:
    """What is none is refused before any contact."""
    assert "is not an octal number between 000 and 777" in await offline.fails("start", f"--umask={mask}", "--", "true")


async def test_a_secret_is_read_from_a_file(jobcli: Jobcli, client: JobClient, tmp_path: Path) -> None:
    """Without the newline at its end."""
    (tmp_path / "token").write_text("s3cret\n")
    printed = await jobcli.ok("run", "--secret", f"TOKEN=@{tmp_path}/token", "--", "sh", "-c", 'echo "<$TOKEN>"')
    assert printed == "<s3cret>\n"
    [job] = [job async for job in client.list()]
    assert job.spec.secret_env == {"TOKEN": ""}


async def test_a_secret_is_read_from_a_descriptor(jobcli: Jobcli) -> None:
    """One that the caller has opened; here its stdin."""
    ended = await jobcli("run", "--secret", "TOKEN=fd:0", "--", "sh", "-c", 'echo "<$TOKEN>"', stdin=b"s3cret")
    assert ended.text == "<s3cret>\n"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        pytest.param("s3cret", "--secret is not of the form K=@FILE or K=fd:N", id="a value alone"),
        pytest.param("K=s3cret", "K=@FILE or K=fd:N", id="the value itself"),
        pytest.param("K=@", "K=@FILE or K=fd:N", id="no file"),
        pytest.param("K=fd:x", "K=@FILE or K=fd:N", id="no descriptor"),
        pytest.param("K=fd:999", "'K' cannot be read from 'fd:999': Bad file descriptor", id="a closed descriptor"),
        pytest.param("K=@/no/such/file", "No such file or directory", id="a file that is not there"),
        pytest.param("K=@/dev/zero", "has more than 131072 bytes", id="a file without end"),
    ],
)
async def test_a_secret_that_cannot_be_read_is_not_told(offline: Jobcli, given: str, told: str) -> None:
    """What is said names the variable, and has nothing of what was given in its place."""
    message = await offline.fails("start", "--secret", given, "--", "true")
    assert told in message
    assert "s3cret" not in message


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
argv = ["sh", "-c", "echo $WORD $PWD $TOKEN"]
env = { WORD = "one" }
cwd = "/tmp"
secret = { TOKEN = "@token" }

[second]
name = "another name"
argv = ["echo", "two"]
umask = "027"
"""


async def test_start_takes_several_jobs_from_a_file(jobcli: Jobcli, client: JobClient, tmp_path: Path) -> None:
    """An id a line, in the order of the file; the tables' keys are the jobs'."""
    file = tmp_path / "jobs.toml"
    file.write_text(JOBS)
    (tmp_path / "token").write_text("s3cret")
    ids = (await jobcli.ok("start", "--file", str(file))).splitlines()
    first, second = await client.wait(*ids)
    assert (first.spec.name, first.spec.env, first.spec.cwd) == ("first", {"WORD": "one"}, "/tmp")
    assert (second.spec.name, second.spec.argv, second.spec.umask) == ("another name", ["echo", "two"], 0o027)
    assert await jobcli.ok("stream", first.id) == "one /tmp s3cret\n"


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
        pytest.param('[a]\nargv = ["true"]\ncwd = 1', "[a] has a cwd that is not a text", id="cwd is a number"),
        pytest.param(
            '[a]\nargv = ["true"]\non = { gpu = 1 }', "[a] has an on that is not a table", id="a label is a number"
        ),
        pytest.param(
            '[a]\nargv = ["true"]\nsecret = "@x"', "[a] has a secret that is not a table", id="secret is a text"
        ),
        pytest.param('[a]\nargv = ["true"]\nsecret = { A = "x" }', "A=@FILE or A=fd:N", id="secret is a value"),
        pytest.param('[a]\nargv = ["true"]\nuser = 0', "[a] has a user that is not a text", id="user is a number"),
        pytest.param(
            '[a]\nargv = ["true"]\numask = 22', "[a] has a umask that is not an octal", id="umask is a number"
        ),
        pytest.param('[a]\nargv = ["true"]\numask = "8"', "[a] has a umask that is not an octal", id="umask of 8"),
        pytest.param('[a]\nargv = ["true"]\nprivate-tmp = 1', "neither true nor false: 1", id="a flag is a number"),
        pytest.param('[a]\nargv = ["true"]\nio-class = "rt"', "can be idle or best-effort", id="no I/O class"),
        pytest.param('[a]\nargv = ["true"]\nmemory = "0K"', "[a] has a memory of 0", id="a limit is 0"),
        pytest.param('[a]\nargv = ["true"]\nprocesses = nan', "not a number: nan", id="a limit is no number"),
        pytest.param('[a]\nargv = ["true"]\ncpus = nan', "[a] has a cpus that cannot be", id="a fraction is no number"),
        pytest.param(
            '[a]\nargv = ["true"]\ntimeout = -1', "[a] has a timeout that cannot be", id="a limit is negative"
        ),
        pytest.param('[a]\nargv = ["true"]\nretry-lost = true', "[a] has a retry-lost that", id="reruns are a flag"),
        pytest.param('[a]\nargv = ["true"]\nretry-lost = -1', "[a] has a retry-lost that", id="fewer reruns than none"),
        pytest.param('[a]\nargv = ["true"]\nretry-lost = 2147483648', "[a] has a retry-lost", id="reruns for ever"),
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


async def test_what_keeps_a_job_and_its_turn_at_a_disk_are_passed_on(
    jobcli: Jobcli, client: JobClient, tmp_path: Path
) -> None:
    """From the command line and from a file; query shows them. What the server refuses is said by name."""
    file = tmp_path / "jobs.toml"
    file.write_text('[a]\nargv = ["true"]\nio-class = "idle"\ndrop-capabilities = true\nprivate-tmp = false\n')
    flags = ("--io-class", "idle", "--drop-capabilities", "--", "true")
    for arguments in (flags, ("--file", str(file))):
        job = await client.query((await jobcli.ok("start", *arguments)).strip())
        assert job.spec.limits == Limits(io_class=IoClass(IoClass.IDLE))
        assert job.spec.isolation == Isolation(drop_capabilities=True)
        facts = json.loads(await jobcli.ok("query", "--json", job.id))
        assert (facts["limits"], facts["isolation"]) == ({"io_class": "idle"}, ["drop_capabilities"])
        printed = (await jobcli.ok("query", job.id)).splitlines()
        assert "isolation:     drop_capabilities" in printed
        assert "limits:        io_class idle" in printed
    assert "spec.isolation.no_network: cannot be had here" in await jobcli.fails("run", "--no-network", "--", "true")
    (worker,) = map(json.loads, (await jobcli.ok("workers", "--json")).splitlines())
    assert worker["isolation"] == ["drop_capabilities"]


async def test_a_job_file_excludes_a_command(offline: Jobcli, tmp_path: Path) -> None:
    """Two sources for what to run are one too many."""
    for word in ("--private-tmp", "--memory=1G", "--env=A=b", "true"):
        assert "--file says what to run" in await offline.fails("start", "--file", str(tmp_path), word)
    for option in ("--user=u", "--group=g", "--umask=0", "--secret=A=fd:0", "--on=a=b", "--retry-lost=1"):
        assert "--file says what to run" in await offline.fails("start", "--file", str(tmp_path), option)


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
