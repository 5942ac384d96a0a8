"""``jobcli query``: everything known of jobs."""

from __future__ import annotations

import argparse

from api.client import JobClient
from jobcli import render
from jobcli.commands._command import Parser

HELP = "tell everything known of jobs"


def configure(parser: Parser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID", help="a job id, or a unique prefix of one")
    parser.add_argument("--json", action="store_true", help="print the jobs as JSON, one a line")


async def run(args: argparse.Namespace, client: JobClient) -> int:
    for number, job_id in enumerate(args.ids):
        job = await client.query(job_id)
        if args.json:
            render.as_json(render.job_facts(job))
        else:
            if number:
                render.line("")
            render.job(job)
    return 0
