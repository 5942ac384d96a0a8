"""``jobcli wait``: wait for the end of jobs, and end as they did."""

from __future__ import annotations

import argparse

from api.client import JobClient
from api.errors import ConfigError, DeadlineExceededError
from api.messages import TERMINAL_STATES
from jobcli import exit_codes, render
from jobcli.commands._command import Parser, seconds

HELP = "wait until jobs have ended; exit as the first one that did not succeed"


def configure(parser: Parser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID", help="a job id, or a unique prefix of one")
    parser.add_argument("--any", action="store_true", help="until one of them has ended")
    parser.add_argument("--timeout", type=seconds, metavar="SECONDS", help="give up after this long")
    parser.add_argument("--json", action="store_true", help="print the jobs as JSON, one a line")


async def run(args: argparse.Namespace, client: JobClient) -> int:
    try:
        jobs = await client.wait(*args.ids, any_of_them=args.any, timeout=args.timeout)
    except DeadlineExceededError:
        raise ConfigError(f"not ended within {args.timeout:g} s; the jobs go on") from None
    ended = [job for job in jobs if job.state in TERMINAL_STATES]
    for job in ended:
        if args.json:
            render.as_json(render.job_facts(job))
        else:
            render.line(f"{job.id}  {render.state_name(job.state)}: {job.message}")
    return next((code for code in map(exit_codes.of_end, ended) if code), 0)
