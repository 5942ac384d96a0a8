"""``jobcli undrain``: give workers that were drained jobs again."""

from __future__ import annotations

import argparse

from api.client import JobClient
from jobcli.commands.drain import configure, workers_of

HELP = "give workers that were drained jobs again"

__all__ = ["HELP", "configure", "run"]


async def run(args: argparse.Namespace, client: JobClient) -> int:
    for name in workers_of(args):
        await client.undrain(name)
    return 0
