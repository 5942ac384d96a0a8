"""``jobcli drain``: give workers of a pool no further jobs; those that they have go on."""

from __future__ import annotations

import argparse

from api.client import JobClient
from jobcli.commands._command import Parser, check_utf8

HELP = "give workers of a pool no further jobs; those that they have go on"


def configure(parser: Parser) -> None:
    parser.add_argument("workers", nargs="+", metavar="WORKER", help="a worker's name, as 'jobcli workers' shows it")


async def run(args: argparse.Namespace, client: JobClient) -> int:
    for name in workers_of(args):
        await client.drain(name)
    return 0


def workers_of(args: argparse.Namespace) -> list[str]:
    """The workers that were named.

    Raises:
        ConfigError: one of them cannot be sent; nothing is done about the others.
    """
    workers: list[str] = args.workers
    for name in workers:
        check_utf8(name)
    return workers
