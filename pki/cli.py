"""``jobpki``: makes and shows the certificates that jobd's servers and clients need.

Exit status: 0, or 2 if the command line is wrong, 1 if anything else is, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from api.errors import JobdError
from api.identity import Role
from pki import commands
from pki.console import say, show_facts
from pki.describe import Facts
from pki.profiles import CA_LIFETIME, CA_NAME, CLIENT, SERVER

MAX_DAYS: Final = 36500
"""A hundred years: dates stay within what every X.509 library can read."""

Command = Callable[[argparse.Namespace, datetime], Facts]

if TYPE_CHECKING:
    from argparse import _SubParsersAction  # argparse names what add_subparsers() returns nowhere else

    Commands = _SubParsersAction[argparse.ArgumentParser]


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
    """Run the command that ``args`` hold, print its facts, and return the exit status."""
    try:
        with warnings.catch_warnings():
            # The library warns of oddities in what it reads (long names, odd serials), raw and with our source line.
            warnings.simplefilter("ignore")
            facts = args.command(args, now)
    except JobdError as exc:
        say(f"jobpki: {exc}", sys.stderr)
        return 1
    show_facts(facts, sys.stdout, as_json=args.json)
    return 0


def _discard_output() -> None:
    # What could not be written must not fail once more in the interpreter's own flush at exit.
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser("jobpki", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_init(verbs)
    _add_server(verbs)
    _add_client(verbs)
    _add_request(verbs)
    _add_sign(verbs)
    _add_show(verbs)
    return parser


def _add_init(verbs: Commands) -> None:
    parser = _verb(verbs, "init", commands.init, "make a CA: DIR/ca.crt and DIR/ca.key")
    parser.add_argument("dir", metavar="DIR", type=Path, help="made, for its owner only, if it is not there")
    parser.add_argument("--name", default=CA_NAME, help="the CA's common name (default: %(default)s)")
    _add_days(parser, CA_LIFETIME)
    _add_force(parser)


def _add_server(verbs: Commands) -> None:
    parser = _verb(verbs, "server", commands.server, "make a server's key, request and certificate")
    _add_dir(parser)
    _add_hosts(parser, required=True)
    _add_server_stem(parser)
    _add_days(parser, SERVER.lifetime)
    _add_force(parser)


def _add_client(verbs: Commands) -> None:
    parser = _verb(verbs, "client", commands.client, "make a client's key, request and certificate")
    _add_dir(parser)
    _add_name(parser)
    _add_roles(parser)
    _add_stem(parser, "NAME")
    _add_days(parser, CLIENT.lifetime)
    _add_force(parser)


def _add_request(verbs: Commands) -> None:
    parser = verbs.add_parser("request", help="make a key and a request, to be signed by a CA elsewhere")
    parser.add_argument("dir", metavar="DIR", type=Path, help="made, for its owner only, if it is not there")
    profiles = parser.add_subparsers(required=True, metavar="server|client")
    server = _verb(profiles, "server", commands.request_server, "for a server")
    _add_hosts(server, required=True)
    _add_server_stem(server)
    _add_force(server)
    client = _verb(profiles, "client", commands.request_client, "for a client; its roles are up to the signer")
    _add_name(client)
    _add_stem(client, "NAME")
    _add_force(client)


def _add_sign(verbs: Commands) -> None:
    parser = verbs.add_parser("sign", help="sign a request with the CA in DIR; writes DIR/STEM.crt")
    _add_dir(parser)
    parser.add_argument("csr", metavar="CSR", type=Path, help="the request, in PEM or DER, from jobpki or openssl")
    profiles = parser.add_subparsers(required=True, metavar="server|client")
    server = _verb(profiles, "server", commands.sign_server, "as a server's")
    _add_hosts(server, required=False)
    client = _verb(profiles, "client", commands.sign_client, "as a client's")
    client.add_argument("--name", help="refuse the request unless it is for this principal")
    _add_roles(client)
    for profile, lifetime in ((server, SERVER.lifetime), (client, CLIENT.lifetime)):
        _add_stem(profile, "that of CSR")
        _add_days(profile, lifetime)
        _add_force(profile)


def _add_show(verbs: Commands) -> None:
    parser = _verb(
        verbs, "show", commands.show, "say what a certificate, request or key is and may do (not whether to trust it)"
    )
    parser.add_argument("file", metavar="FILE", type=Path)


def _verb(verbs: Commands, name: str, command: Command, summary: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=summary, description=summary)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(command=command)
    return parser


def _add_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", metavar="DIR", type=Path, help="where the CA is, and the new files go")


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the principal's name")


def _add_hosts(parser: argparse.ArgumentParser, *, required: bool) -> None:
    summary = "a DNS name or IP address at which the server is reached; may repeat"
    if not required:
        summary += " (default: those that the request names; a request for any other is refused)"
    parser.add_argument("--host", action="append", required=required, default=[], help=summary)


def _add_roles(parser: argparse.ArgumentParser) -> None:
    roles = parser.add_mutually_exclusive_group(required=True)
    roles.add_argument(
        "--role", action="append", default=[], choices=[str(role) for role in Role], help="grant this; may repeat"
    )
    roles.add_argument("--no-role", action="store_true", help="grant nothing: the client may connect, and no more")


def _add_stem(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--out", metavar="STEM", help=f"the files' name without its ending (default: {default})")


def _add_server_stem(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--name",
        "--out",
        dest="out",
        metavar="STEM",
        default="server",
        help="the files' name without its ending (default: %(default)s)",
    )


def _add_days(parser: argparse.ArgumentParser, default: timedelta) -> None:
    parser.add_argument(
        "--days", type=_days, default=default, metavar="N", help=f"valid for N days (default: {default.days})"
    )


def _add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="replace files that are there already")


def _days(text: str) -> timedelta:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_DAYS):
        raise argparse.ArgumentTypeError(f"{text!a} is not a whole number of days from 1 to {MAX_DAYS}")
    return timedelta(days=int(text))


if __name__ == "__main__":
    sys.exit(main())
