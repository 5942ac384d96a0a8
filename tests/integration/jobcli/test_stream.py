"""The real ``jobcli`` against a daemon. stream: from where, of how many, and how it is left."""

from __future__ import annotations

import signal

import pytest

from api.client import JobClient
from api.messages import JobState
from tests.support.jobcli import Ended, Jobcli, last_words, read_until


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
