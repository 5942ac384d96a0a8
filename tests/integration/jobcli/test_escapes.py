"""What jobs and strangers call things is shown as it is, and moves no cursor; output is output."""

from __future__ import annotations

import sys

from api.client import JobClient
from tests.support.jobcli import Jobcli

EVIL = "\x1b]0;owned\x07\x1b[2J\u202e\rforged\nlines"
RENAMED = """
import ctypes, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
ctypes.CDLL(None).prctl(15, b"\\x1b[2J\\rx\\ny", 0, 0, 0)
print("ready", flush=True)
signal.pause()
"""
"""A job that gives its process another name (PR_SET_NAME), and has to be killed."""


async def test_no_command_lets_a_job_write_to_the_terminal(jobcli: Jobcli, client: JobClient) -> None:
    """list, query, workers and the receipt of a stop: every line is printable, and there are no more than there
    should be; as JSON, they are ASCII."""
    job = await client.start([sys.executable, "-c", RENAMED, EVIL], env={"EVIL": EVIL})
    failed = await client.start([f"/{EVIL}"])
    async with client.stream(job.id) as output:
        await anext(output)
    for command in (["list"], ["query", job.id], ["query", failed.id], ["workers"], ["stop", "--grace", "0.1", job.id]):
        printed = await jobcli.ok(*command)
        assert all(line.isprintable() for line in printed.split("\n")), command
        assert "\nlines" not in printed
    assert (await jobcli.ok("list")).count("\n") == 3
    assert r"\x1b[2J\rx\ny" in await jobcli.ok("query", job.id)
    for command in (["list", "--json"], ["query", "--json", job.id], ["workers", "--json"]):
        assert (await jobcli.ok(*command)).isascii()


async def test_output_is_not_touched(jobcli: Jobcli, client: JobClient) -> None:
    """Bytes are bytes: whoever streams a job's output to a terminal trusts the job with it, as with any program."""
    job = await client.start(["printf", "%s", EVIL])
    await client.wait(job.id)
    assert (await jobcli("stream", job.id)).out == EVIL.encode()
