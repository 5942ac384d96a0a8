"""``jobpki``: runs a command, prints what it says, and turns what went wrong into a line and an exit status."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime

from api.errors import JobdError
from pki.console import say, show_report
from pki.parser import build_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``jobpki`` with ``argv`` (``sys.argv[1:]`` if it is None) and return its exit status. Never raises."""
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as exc:  # argparse has printed the help (0) or what is wrong (2)
        return exc.code if isinstance(exc.code, int) else 2
    try:
        return run(args, datetime.now(UTC))
    except OSError as exc:
        _discard_output()
        if not isinstance(exc, BrokenPipeError):  # whoever read our output has gone, and wants no more of it
            say(f"jobpki: {exc}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("jobpki: interrupted", sys.stderr)
        return 130


def run(args: argparse.Namespace, now: datetime) -> int:
    """Run the command that ``args`` hold, print its report, and return the exit status."""
    try:
        with warnings.catch_warnings():
            # The library warns of oddities in what it reads (long names, odd serials), raw and with our source line.
            warnings.simplefilter("ignore")
            report = args.command(args, now)
    except JobdError as exc:
        say(f"jobpki: {exc}", sys.stderr)
        return 1
    show_report(report, sys.stdout, as_json=args.json)
    return int(report.status)


def _discard_output() -> None:
    # What could not be written must not fail once more in the interpreter's own flush at exit.
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
