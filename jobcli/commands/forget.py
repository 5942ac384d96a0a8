"""``jobcli forget``: give up jobs whose worker is gone for ever."""

from __future__ import annotations

import argparse

from api.client import JobClient
from jobcli import render
from jobcli.commands._command import Parser

HELP = "give up jobs of a worker that is gone for ever; they are lost"


def configure(parser: Parser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID", help="a job id, or a unique prefix of one")


async def run(args: argparse.Namespace, client: JobClient) -> int:
    for job_id in args.ids:
        job = await client.forget(job_id)
        render.line(f"{job.id}  {render.state_name(job.state)}: {job.message}")
    return 0
