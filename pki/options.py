"""The options that several commands have, and how their values are read."""

from __future__ import annotations

import argparse
import re
from datetime import timedelta
from pathlib import Path
from typing import Final

from api.identity import Role
from pki.intermediate import MAX_PATH_LENGTH
from pki.keys import KeyKind

MAX_DAYS: Final = 36500
"""A hundred years: dates stay within what every X.509 library can read."""

_UNITS: Final = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def add_dir(parser: argparse.ArgumentParser, summary: str = "where the CA is, and the new files go") -> None:
    """The CA's directory."""
    parser.add_argument("dir", metavar="DIR", type=Path, help=summary)


def add_new_dir(parser: argparse.ArgumentParser) -> None:
    """A directory that is made if it is not there."""
    add_dir(parser, "made, for its owner only, if it is not there")


def add_name(parser: argparse.ArgumentParser) -> None:
    """The principal."""
    parser.add_argument("name", metavar="NAME", help="the principal's name")


def add_hosts(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Where a server is reached."""
    summary = "a DNS name or IP address at which the server is reached; may repeat"
    if not required:
        summary += " (default: those that the request names; a request for any other is refused)"
    parser.add_argument("--host", action="append", required=required, default=[], help=summary)


def add_roles(parser: argparse.ArgumentParser) -> None:
    """What a client is granted; nothing only if that is said."""
    roles = parser.add_mutually_exclusive_group(required=True)
    roles.add_argument(
        "--role", action="append", default=[], choices=[str(role) for role in Role], help="grant this; may repeat"
    )
    roles.add_argument("--no-role", action="store_true", help="grant nothing: the client may connect, and no more")


def add_stem(parser: argparse.ArgumentParser, default: str) -> None:
    """What the new files are called."""
    parser.add_argument("--out", metavar="STEM", help=f"the files' name without its ending (default: {default})")


def add_server_stem(parser: argparse.ArgumentParser) -> None:
    """What a server's new files are called."""
    parser.add_argument(
        "--name",
        "--out",
        dest="out",
        metavar="STEM",
        default="server",
        help="the files' name without its ending (default: %(default)s)",
    )


def add_days(parser: argparse.ArgumentParser, default: timedelta) -> None:
    """How long the certificate is good."""
    parser.add_argument(
        "--days", type=days, default=default, metavar="N", help=f"valid for N days (default: {default.days})"
    )


def add_path_length(parser: argparse.ArgumentParser) -> None:
    """How many CAs may stand below."""
    parser.add_argument(
        "--path-length",
        type=int,
        choices=range(MAX_PATH_LENGTH + 1),
        default=0,
        metavar="N",
        help="how many CAs may stand below this one in a chain (default: 0, it signs servers and clients only)",
    )


def add_force(parser: argparse.ArgumentParser) -> None:
    """Whether to replace what is there."""
    parser.add_argument("--force", action="store_true", help="replace files that are there already")


def add_key(parser: argparse.ArgumentParser, default: str | None = str(KeyKind.P256), shown: str = "p256") -> None:
    """What kind of key is made, and whether it is encrypted."""
    parser.add_argument(
        "--key-type",
        choices=[str(kind) for kind in KeyKind],
        default=default,
        help=f"the kind of the new key (default: {shown})",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--encrypt-key", action="store_true", help="encrypt the new key; asks for a passphrase")
    _add_passphrase(group, "key", "the new key, which is encrypted with it")


def add_ca_key(parser: argparse.ArgumentParser) -> None:
    """Where the passphrase of the CA's key comes from."""
    what = "the CA's key, if that is encrypted (default: it is asked for)"
    _add_passphrase(parser.add_mutually_exclusive_group(), "ca", what)


def add_expires_within(parser: argparse.ArgumentParser) -> None:
    """What ends soon, for cron."""
    parser.add_argument(
        "--expires-within",
        type=duration,
        metavar="TIME",
        help="show only what ends within TIME (14d, 36h, 2w) or has ended, and then exit with 3; "
        "if there is nothing, print nothing and exit with 0",
    )


def days(text: str) -> timedelta:
    """A number of days.

    Raises:
        ArgumentTypeError: it is none, or too many.
    """
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_DAYS):
        raise argparse.ArgumentTypeError(f"{text!a} is not a whole number of days from 1 to {MAX_DAYS}")
    return timedelta(days=int(text))


def duration(text: str) -> timedelta:
    """A time like 36h, 14d or 2w.

    Raises:
        ArgumentTypeError: it is none, or too long.
    """
    found = re.fullmatch(r"([0-9]{1,6})([hdw])", text)
    if not found or int(found[1]) * _UNITS[found[2]] > timedelta(days=MAX_DAYS):
        raise argparse.ArgumentTypeError(f"{text!a} is not a time like 36h, 14d or 2w, of at most {MAX_DAYS} days")
    return int(found[1]) * _UNITS[found[2]]


def _add_passphrase(group: argparse._MutuallyExclusiveGroup, whose: str, what: str) -> None:
    file = f"the first line of FILE is the passphrase of {what}"
    group.add_argument(f"--{whose}-passphrase-file", type=Path, metavar="FILE", help=file)
    descriptor = f"the next line from the open descriptor N is the passphrase of {what}"
    group.add_argument(f"--{whose}-passphrase-fd", type=_descriptor, metavar="N", help=descriptor)


def _descriptor(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise argparse.ArgumentTypeError(f"{text!a} is not the number of a descriptor")
    return int(text)
