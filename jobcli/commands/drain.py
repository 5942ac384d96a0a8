"""``jobcli drain``: give workers of a pool no further jobs; those that they have go on."""

from __future__ import annotations

import argparse

from api.client import JobClient
from jobcli.commands._command import Parser, check_utf8

HELP = "give workers of a pool no further jobs; those that they have go on"


def configure(parser: Parser) -> None:
    parser.add_argument("workers", nargs="+", metavar="WORKER", help="a worker's name, as 'jobcli workers' shows it")


async def run(args: argparse.Namespace, client: JobClient) -> int:
    for name in args.workers:
        check_utf8(name)
    for name in args.workers:
        await client.drain(name)
    return 0
