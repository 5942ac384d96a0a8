"""``jobcli forget``: give up jobs whose worker is gone for ever."""

from __future__ import annotations

import argparse

from api.client import JobClient
from api.messages import Job
from jobcli import render
from jobcli.commands._command import Parser
from jobcli.commands._several import of_each

HELP = "give up jobs of a worker that is gone for ever; they are lost"


def configure(parser: Parser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID", help="a job id, or a unique prefix of one")


async def run(args: argparse.Namespace, client: JobClient) -> int:
    def tell(job: Job) -> None:
        render.line(f"{job.id}  {render.state_name(job.state)}: {job.message}")

    return await of_each(args.ids, client.forget, tell)
