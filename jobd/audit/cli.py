"""The command ``jobd audit``."""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from api.nearest import Parser
from jobd.audit.verify import verify

EXIT_BROKEN: Final = 1
EXIT_USAGE: Final = 2


def parser() -> argparse.ArgumentParser:
    """The parser; documentation is made from it."""
    made = Parser(
        prog="jobd audit",
        description="Looks at the audit log (--audit-log) of a jobd.",
        allow_abbrev=False,
    )
    verbs = made.add_subparsers(dest="verb", metavar="VERB", required=True)
    verifying = verbs.add_parser(
        "verify",
        help="see that it is whole",
        description="Sees that no line was changed, taken out or put in: every line has the SHA-256 of the one before. "
        "Prints how many there are, and the sum of the last: kept elsewhere, it proves later (--contains) that nobody "
        "has written the log anew. Ends with 0 if it is whole; 1 if it is not, with a line for each place; 2 if a file "
        "cannot be read.",
        allow_abbrev=False,
    )
    verifying.add_argument("--contains", metavar="SUM", default="", help="a line with this sum has to be there")
    verifying.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="the oldest first; a name that ends in .gz is unpacked"
    )
    return made


def main(argv: Sequence[str]) -> int:
    """Run ``jobd audit``; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        found = verify(args.files, args.contains)
    except (OSError, EOFError, zlib.error) as exc:
        print(f"jobd audit: {exc}", file=sys.stderr)
        return EXIT_USAGE
    for note in found.notes:
        print(note)
    for problem in found.problems:
        print(problem, file=sys.stderr)
    start = "from the first on" if found.begins else "of a log that began before them"
    if found.lines:
        print(f"{found.lines} lines {start}, {found.first} to {found.last}")
        print(f"the last is line {found.number} of the log: {found.sum}")
    else:
        print("no lines")
    if found.problems:
        print("not whole", file=sys.stderr)
        return EXIT_BROKEN
    print("whole")
    return 0
