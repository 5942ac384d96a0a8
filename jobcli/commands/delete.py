"""``jobcli delete``: forget jobs that have ended."""

from __future__ import annotations

import argparse

from api.client import JobClient
from jobcli.commands._command import Parser
from jobcli.commands._several import of_each

HELP = "forget jobs that have ended, and their output"


def configure(parser: Parser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID", help="a job id, or a unique prefix of one")


async def run(args: argparse.Namespace, client: JobClient) -> int:
    return await of_each(args.ids, client.delete)
