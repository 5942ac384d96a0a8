"""``jobcli workers``: the pool, and what each worker is running."""

from __future__ import annotations

import argparse

from api.client import JobClient
from jobcli import render
from jobcli.commands._command import Parser

HELP = "show the workers and the jobs they have"


def configure(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print the workers as JSON, one a line")


async def run(args: argparse.Namespace, client: JobClient) -> int:
    answer = await client.workers()
    if args.json:
        for worker in answer.workers:
            render.as_json(render.worker_facts(worker))
    else:
        render.workers(answer.workers, answer.pending)
    return 0
