"""``jobcli signal``: send a signal to a job's processes."""

from __future__ import annotations

import argparse
import signal
from typing import Final

from api.client import JobClient
from api.errors import ConfigError
from jobcli.commands._command import Parser

HELP = "send a signal to a running job"
LAST: Final = signal.SIGRTMAX


def configure(parser: Parser) -> None:
    parser.add_argument("id", metavar="ID", help="a job id, or a unique prefix of one")
    parser.add_argument("signal", metavar="SIGNAL", help="its name (HUP, SIGUSR1) or number")


async def run(args: argparse.Namespace, client: JobClient) -> int:
    await client.signal(args.id, number_of(args.signal))
    return 0


def number_of(text: str) -> int:
    """The number of a signal given by name or number.

    Raises:
        ConfigError: there is none of that name or number.
    """
    if text.isascii() and text.isdigit():
        digits = text.lstrip("0") or "0"
        if len(digits) > len(str(LAST)) or int(digits) > LAST:
            raise ConfigError(f"there is no signal {text!a}; the last one is {LAST:d} (SIGRTMAX)")
        return int(digits)
    name = text.upper()
    try:
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except KeyError:
        raise ConfigError(f"there is no signal {text!a}; 'kill -l' lists them") from None
