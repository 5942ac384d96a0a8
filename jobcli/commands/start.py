"""``jobcli start``: start a job and print its id, or several from a file."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from pathlib import Path

from api.client import JobClient
from api.errors import ConfigError, JobdError, RpcError
from api.messages import Job, JobState
from jobcli import exit_codes, job_file, render
from jobcli.commands._command import Parser, add_job_arguments, argv_of, asked, isolation_of, limits_of
from jobcli.stdin import given

HELP = "start a job and print its id"
SAID_BY_FILE = ("name", "env", "secret", "cwd", "user", "group", "umask", "stdin", "on", "retry_lost")


def configure(parser: Parser) -> None:
    parser.add_argument(
        "--file",
        type=Path,
        metavar="FILE",
        help="start every job of a TOML file, one table a job: argv, and keys named as these options",
    )
    parser.add_argument("-i", "--interactive", action="store_true", help="its stdin is for 'jobcli attach'")
    parser.add_argument("--json", action="store_true", help="print the jobs as JSON, one a line")
    add_job_arguments(parser)


async def run(args: argparse.Namespace, client: JobClient) -> int:
    return max([_report(job, as_json=args.json) async for job in _started(args, client)])


async def _started(args: argparse.Namespace, client: JobClient) -> AsyncIterator[Job]:
    if args.file is None:
        if args.interactive and args.stdin is not None:
            raise ConfigError("--stdin and -i each say where the job's stdin comes from; give one of them")
        yield await client.start(argv_of(args), **asked(args), stdin=given(args.stdin), attachable=args.interactive)
        return
    values = {**vars(args), "retry_lost": args.retry_lost or None}  # 0 is what it is by itself; --umask 0 was said
    said = args.interactive or any(values[name] not in ("", None, []) for name in SAID_BY_FILE)
    if args.command or said or limits_of(values) or isolation_of(values):
        options = ", --".join(SAID_BY_FILE).replace("_", "-")
        raise ConfigError(
            f"--file says what to run, and how; give no command, -i, --{options}, limit or isolation with it"
        )
    for entry in job_file.read(args.file):
        try:
            yield await client.start(entry.argv, **entry.asked, limits=limits_of(entry.limits))
        except RpcError as exc:
            raise JobdError(f"{args.file}: [{entry.table}]: {exc} (the jobs before it were started)") from exc


def _report(job: Job, *, as_json: bool) -> int:
    if as_json:
        render.as_json(render.job_facts(job))
    else:
        render.line(job.id)
    if job.state == JobState.START_FAILED:
        render.error(f"job {job.id[:8]} was not started: {job.message}")
        return exit_codes.of_end(job)
    return 0
