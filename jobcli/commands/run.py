"""``jobcli run``: start a job, write its output, end as it ended."""

from __future__ import annotations

import argparse
import os
import signal

import trio

from api.client import JobClient
from api.errors import ConfigError, FailedPreconditionError, JobdError
from api.messages import TERMINAL_STATES, Job, JobState, Terminal, Verdict
from jobcli import detach, render, tty
from jobcli.commands._command import Parser, add_job_arguments, argv_of, asked
from jobcli.commands.attach import add_detach_keys
from jobcli.commands.stream import follow
from jobcli.interactive import Detached, ended, interact
from jobcli.stdin import given

HELP = "start a job, write its output, end as it ends; Ctrl-C goes to the job, twice stops it, three times kills it"


def configure(parser: Parser) -> None:
    parser.add_argument("-i", "--interactive", action="store_true", help="feed it our stdin, to its end")
    parser.add_argument(
        "-t", "--terminal", action="store_true", help="give it a terminal, and sit at it: every key goes to the job"
    )
    add_detach_keys(parser)
    add_job_arguments(parser)


async def run(args: argparse.Namespace, client: JobClient) -> int:
    keys = detach.parse(args.detach_keys) if args.terminal else None
    job = await client.start(
        argv_of(args),
        **asked(args),
        stdin=_given(args),
        attachable=args.interactive,
        terminal=_terminal() if args.terminal else None,
    )
    if job.state == JobState.PENDING:
        render.note(f"job {job.id[:8]} waits: {job.message}")
    async with trio.open_nursery() as nursery:
        await nursery.start(_pass_signals, client, job)
        if args.interactive or args.terminal:
            end = await _interact(client, job, keys)
        else:
            end = await follow(client, job.id)
        nursery.cancel_scope.cancel()
    return ended(job.id, end)


def _given(args: argparse.Namespace) -> bytes | None:
    if args.stdin is not None and (args.interactive or args.terminal):
        raise ConfigError("--stdin, -i and -t each say where the job's stdin comes from; give --stdin alone")
    return given(args.stdin)


def _terminal() -> Terminal:
    if not tty.is_terminal():
        raise ConfigError("-t needs a terminal on stdin; to feed the job a pipe or a file, give -i")
    rows, columns = tty.size()
    return Terminal(rows, columns, os.environ.get("TERM", ""))


async def _interact(client: JobClient, job: Job, keys: bytes | None) -> Verdict | Detached:
    if job.state not in TERMINAL_STATES:
        try:
            return await interact(client, job.id, keys=keys)
        except FailedPreconditionError as exc:
            if exc.reason != "JOB_ENDED":  # which it may have, by now
                raise
    return await follow(client, job.id)


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
