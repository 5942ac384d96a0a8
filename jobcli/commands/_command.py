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
    return dict(pair.split("=", 1) for pair in pairs)


def argv_of(args: argparse.Namespace) -> list[str]:
    """The command to run.

    Raises:
        ConfigError: there is none, or it has bytes that are not UTF-8.
    """
    argv: list[str] = args.command
    if not argv:
        raise ConfigError("there is nothing to run; put the command after --")
    for word in argv:
        if not word.isascii() and any("\ud800" <= char <= "\udfff" for char in word):
            raise ConfigError(f"the argument {word!a} is not UTF-8, which is what the protocol carries")
    return argv
