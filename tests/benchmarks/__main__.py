"""``python -m tests.benchmarks [--quick] [--rounds N] [--only PART]``: each number with a reference of the same run.

``goals``: what we want to reach, against ssh, grpc.aio, purerpc and blocking loops. ``memory``: what is held, against
what we allow ourselves. ``growth``: with running jobs and followers. ``beside``: next to hostile jobs. ``comparison``:
jobd next to a small runner on grpc.aio. ``durability``: what a kill, many jobs, many records and durable records cost.
``etcd``: transactions with it, next to grpc.aio. ``pool``: three machines, next to one alone. Exit code 1 when any run
was not correct.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from tests.benchmarks import beside, comparison, durability, etcd, goals, growth, memory, pool
from tests.benchmarks.correct import IncorrectRunError

PARTS: Final = {
    "goals": goals.run,
    "memory": memory.run,
    "growth": growth.run,
    "beside": beside.run,
    "comparison": comparison.run,
    "durability": durability.run,
    "etcd": etcd.run,
    "pool": pool.run,
}
PACKAGES: Final = ("trio", "purerpc", "h2", "betterproto", "grpcio", "protobuf")


def main(argv: Sequence[str] | None = None) -> int:
    """Run everything that was asked for, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="little of everything: is it correct?")
    parser.add_argument("--rounds", type=_rounds, help="how often everything is measured")
    parser.add_argument("--only", choices=tuple(PARTS), help="this part alone")
    arguments = parser.parse_args(argv)
    print_facts()
    begin = time.monotonic()
    try:
        for name, part in PARTS.items():
            if arguments.only in (None, name):
                part(quick=arguments.quick, rounds=arguments.rounds)
    except IncorrectRunError as exc:
        print(f"NOT CORRECT: {exc}", file=sys.stderr)
        return 1
    print(f"\nevery run was correct; {time.monotonic() - begin:.0f} s")
    return 0


def _rounds(text: str) -> int:
    """Of none, nothing would be wrong."""
    if (rounds := int(text)) < 1:
        raise ValueError
    return rounds


def print_facts() -> None:
    """What the numbers depend on."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    cores = len(os.sched_getaffinity(0))
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    print(f"{cores} cores of {platform.machine()}, {system}, {datetime.now(UTC):%Y-%m-%d}")
    print(versions)
    print("TLS 1.3 over loopback; servers and clients are processes of their own")


if __name__ == "__main__":
    sys.exit(main())
