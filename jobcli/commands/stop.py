"""``jobcli stop``: end jobs, and say how each ended."""

from __future__ import annotations

import argparse

from api.client import JobClient
from api.messages import Job
from jobcli import render
from jobcli.commands._command import Parser, seconds
from jobcli.commands._several import of_each
from jobcli.commands.signal import number_of

HELP = "end jobs; answers when no process of them is left, with what was found and ended"


def configure(parser: Parser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID", help="a job id, or a unique prefix of one")
    parser.add_argument(
        "--grace", type=seconds, metavar="SECONDS", help="from SIGTERM to SIGKILL (default: as the server is set)"
    )
    parser.add_argument("--signal", default="0", metavar="SIGNAL", help="sent first, instead of TERM")
    parser.add_argument(
        "--mode", choices=("group", "main"), default="group", help="who gets it; SIGKILL is for all (default: group)"
    )
    parser.add_argument("--json", action="store_true", help="print the jobs as JSON, one a line")


async def run(args: argparse.Namespace, client: JobClient) -> int:
    signum, main_only = number_of(args.signal), args.mode == "main"

    async def stop(job_id: str) -> Job:
        return await client.stop(job_id, grace=args.grace, signum=signum, main_only=main_only)

    def tell(job: Job) -> None:
        if args.json:
            render.as_json(render.job_facts(job))
        else:
            render.line(f"{job.id}  {render.state_name(job.state)}: {job.message}")
            render.receipt(job)

    return await of_each(args.ids, stop, tell)
