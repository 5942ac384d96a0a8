"""``jobcli run``: start a job, write its output, end as it ended."""

from __future__ import annotations

import argparse
import signal

import trio

from api.client import JobClient
from api.errors import JobdError
from api.messages import Job, JobState
from jobcli import exit_codes, render
from jobcli.commands._command import Parser, add_job_arguments, argv_of, asked
from jobcli.commands.stream import follow

HELP = "start a job, write its output, end as it ends; Ctrl-C goes to the job, twice stops it, three times kills it"


def configure(parser: Parser) -> None:
    add_job_arguments(parser)


async def run(args: argparse.Namespace, client: JobClient) -> int:
    job = await client.start(argv_of(args), **asked(args))
    if job.state == JobState.PENDING:
        render.note(f"job {job.id[:8]} waits: {job.message}")
    async with trio.open_nursery() as nursery:
        await nursery.start(_pass_signals, client, job)
        verdict = await follow(client, job.id)
        nursery.cancel_scope.cancel()
    if verdict.dropped_bytes:
        render.note(f"{verdict.dropped_bytes} bytes of output could not be recorded and are missing")
    if verdict.exit_code is None:
        render.error(f"job {job.id[:8]} {render.state_name(verdict.state)}: {verdict.message}")
    return exit_codes.of_end(verdict)


async def _pass_signals(client: JobClient, job: Job, *, task_status: trio.TaskStatus[None]) -> None:
    """Ctrl-C goes to the job. Asked a second time, the job is stopped; a third time, killed."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        asked = 0
        async with trio.open_nursery() as nursery:
            async for signum in signals:
                asked += 1
                nursery.start_soon(_pass, client, job, signum, asked)


async def _pass(client: JobClient, job: Job, signum: int, asked: int) -> None:
    try:
        if asked == 1:
            now = await client.query(job.id)
            if now.state == JobState.RUNNING:
                await client.signal(job.id, signum)
                return
        if asked == 2:
            render.note("stopping the job; press Ctrl-C again to kill it")
        await client.stop(job.id, grace=None if asked < 3 else 0)
    except JobdError as exc:
        render.error(f"the job could not be told: {exc}")
