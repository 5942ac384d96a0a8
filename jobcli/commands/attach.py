"""``jobcli attach``: write to a job's stdin, or sit at its terminal."""

from __future__ import annotations

import argparse
import signal

from api.client import JobClient
from api.errors import ConfigError
from api.messages import JobState
from jobcli import detach, render, tty
from jobcli.commands._command import COUNT, OFFSET, Parser
from jobcli.interactive import HANGUP, ended, interact

HELP = "write to a job's stdin, or sit at its terminal; Ctrl-C, or there the detach keys, leave the job alone"


def configure(parser: Parser) -> None:
    parser.add_argument("id", metavar="ID", help="a job id, or a unique prefix of one")
    parser.add_argument(
        "--from", dest="offset", type=OFFSET, metavar="OFFSET", help="begin with this byte of output (default: now)"
    )
    parser.add_argument("-n", "--tail", type=COUNT, metavar="N", help="begin with the last N lines")
    parser.add_argument("--take-over", action="store_true", help="end the attachment of somebody else")
    add_detach_keys(parser)


def add_detach_keys(parser: Parser) -> None:
    """The flag for them."""
    parser.add_argument(
        "--detach-keys",
        default=detach.DEFAULT,
        metavar="KEYS",
        help="what to type at a job's terminal to leave the job alone (default: %(default)s); '' for none",
    )


async def run(args: argparse.Namespace, client: JobClient) -> int:
    keys = detach.parse(args.detach_keys)
    if args.offset is not None and args.tail is not None:
        raise ConfigError("--from and --tail each say where to begin; give one of them")
    job = await client.query(args.id)
    if job.spec.terminal and not tty.is_terminal():
        raise ConfigError(f"job {job.id[:8]} has a terminal: attaching to it needs one on stdin")
    if job.state == JobState.PENDING:
        render.note(f"job {job.id[:8]} waits: {job.message}")
    where = {"offset": args.offset} if args.offset is not None else {"tail_lines": args.tail}
    if args.offset is None and args.tail is None:
        where = {"tail_bytes": 0}
    end = await interact(
        client,
        job.id,
        keys=keys if job.spec.terminal else None,
        detaching=(*HANGUP, signal.SIGINT, signal.SIGTERM),
        redraw=True,
        take_over=args.take_over,
        **where,
    )
    return ended(job.id, end)
