"""The real ``jobcli`` in odd circumstances: readers that go away, full disks, closed descriptors, ..."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from api.client import JobClient
from api.version import VERSION
from tests.support.jobcli import OUR_FAILURE, ROOT, SECONDS, Ended, Jobcli, read_all
from tests.support.patience import patient

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
        ("start", "--memory", "0", "--", "true"),
        ("start", "--timeout", "0.0", "--", "true"),
        ("start", "--timeout", "-1", "--", "true"),
        ("start", "--cpus", "0", "--", "true"),
        ("start", "--cpus", "many", "--", "true"),
        ("start", "--core", "0K", "--", "true"),
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
        timeout=patient(20),
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


async def test_a_job_that_is_stopped_for_its_output_says_so(jobcli: Jobcli) -> None:
    """What was recorded is written out; code and sentence are those of an end by a signal."""
    ended = await jobcli("run", "--output", "4", "--stop-at-output", "--", "yes")
    assert (ended.code, ended.text) == (128 + 15, "y\ny\n")
    assert "output_limit: ended by SIGTERM; it had written more output than the 4 bytes that it may" in ended.error


async def test_a_job_that_was_ended_says_so_though_it_gave_a_code(jobcli: Jobcli) -> None:
    """Nobody is to take a 0 of a job that was cut short for an end of its own."""
    script, seconds = "trap 'exit 0' TERM; while :; do sleep 0.05; done", f"{patient(0.5):g}"
    ended = await jobcli("run", "--timeout", seconds, "--", "sh", "-c", script)
    assert ended.code == 0
    assert f"timed_out: exited with code 0; it had run for the {seconds} s that it may" in ended.error


async def test_a_file_can_have_a_job_stopped_for_its_output(jobcli: Jobcli, tmp_path: Path) -> None:
    """True or false, and nothing else."""
    file = tmp_path / "jobs.toml"
    file.write_text('[loud]\nargv = ["true"]\noutput = "1K"\nstop-at-output = true\n')
    facts = json.loads(await jobcli.ok("start", "--json", "--file", str(file)))
    assert facts["limits"] == {"output_bytes": 1024, "stop_at_output": True}
    file.write_text('[loud]\nargv = ["true"]\nstop-at-output = 1\n')
    ended = await jobcli("start", "--file", str(file))
    assert (ended.code, ended.text) == (OUR_FAILURE, "")
    assert "[loud] has a stop-at-output that is neither true nor false: 1" in ended.error
