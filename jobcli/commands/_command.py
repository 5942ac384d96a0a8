"""What the verbs share: the shape of a command, and the words after ``--``."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import Any

from api.client import JobClient
from api.errors import ConfigError

Parser = argparse.ArgumentParser
Subparsers = Any  # argparse has no public name for what add_subparsers() gives
Run = Callable[[argparse.Namespace, JobClient], Awaitable[int]]


def add_job_arguments(parser: Parser) -> None:
    """The arguments that say what to run."""
    parser.add_argument("--name", default="", metavar="N", help="a name for people; need not be unique")
    parser.add_argument(
        "--env", action="append", default=[], metavar="K=V", help="an environment variable; may be given again"
    )
    parser.add_argument("--cwd", default="", metavar="D", help="the working directory, absolute (default: /)")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD ARG…", help="what to run")


def environment_of(pairs: list[str]) -> dict[str, str]:
    """``K=V`` pairs as a mapping.

    Raises:
        ConfigError: one has no ``=``.
    """
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"--env {pair!a} is not of the form K=V")
        check_utf8(pair)
    return dict(pair.split("=", 1) for pair in pairs)


def argv_of(args: argparse.Namespace) -> list[str]:
    """The command to run.

    Raises:
        ConfigError: there is none, or it has bytes that are not UTF-8.
    """
    argv: list[str] = args.command
    if not argv:
        raise ConfigError("there is nothing to run; put the command after --")
    for word in (*argv, args.name, args.cwd):
        check_utf8(word)
    return argv


def check_utf8(word: str) -> None:
    """See that a word of the command line can be sent.

    Raises:
        ConfigError: it has bytes that are not UTF-8.
    """
    if any("\ud800" <= char <= "\udfff" for char in word):
        raise ConfigError(f"{word!a} is not UTF-8, which is what the protocol carries")


def seconds(text: str) -> float:
    """A time span for argparse: a number of seconds, 0 to a year."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 366 * 86400:
        raise argparse.ArgumentTypeError(f"{text!a} is not a number of seconds between 0 and a year")
    return value


def whole(highest: int) -> Callable[[str], int]:
    """A whole number for argparse: 0 to ``highest``."""

    def convert(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text[:20]) <= highest and len(text) < 20):
            raise argparse.ArgumentTypeError(f"{text!a} is not a whole number between 0 and {highest}")
        return int(text)

    return convert


OFFSET = whole(2**63 - 1)
COUNT = whole(2**31 - 1)
