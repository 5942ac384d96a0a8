"""``jobcli list``: all jobs, newest first."""

from __future__ import annotations

import argparse

from api.client import JobClient
from api.errors import ConfigError
from api.messages import JobState
from jobcli import render
from jobcli.commands._command import COUNT, Parser

HELP = "list jobs, newest first"
STATES = {state.name.lower(): state for state in JobState if state.name and state != JobState.UNSPECIFIED}


def configure(parser: Parser) -> None:
    parser.add_argument(
        "--state",
        action="append",
        default=[],
        choices=sorted(STATES),
        help="only jobs in this state; may be given again",
    )
    parser.add_argument("--limit", type=COUNT, metavar="N", help="at most this many")
    parser.add_argument("--json", action="store_true", help="print the jobs as JSON, one a line")


async def run(args: argparse.Namespace, client: JobClient) -> int:
    if args.limit is not None and args.limit < 1:
        raise ConfigError("--limit is at least 1")
    found = []
    async for job in client.list(states=[STATES[name] for name in args.state], page_size=args.limit or 0):
        if args.json:
            render.as_json(render.job_facts(job))
        found.append(job)
        if len(found) == args.limit:
            break
    if not args.json:
        render.jobs(found)
    return 0
