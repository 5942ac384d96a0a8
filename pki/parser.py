"""The command line of ``jobpki``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from api.nearest import Parser
from pki.commands import issue, lifetime
from pki.crl import CRL_LIFETIME, CRL_NAME
from pki.options import (
    add_ca_key,
    add_days,
    add_dir,
    add_expires_within,
    add_force,
    add_hosts,
    add_key,
    add_name,
    add_new_dir,
    add_path_length,
    add_roles,
    add_server_stem,
    add_stem,
    days,
)
from pki.profiles import CA_LIFETIME, CA_NAME, CLIENT, INTERMEDIATE, INTERMEDIATE_NAME, SERVER
from pki.report import Report
from pki.revocation import Reason

Command = Callable[[argparse.Namespace, datetime], Report]

if TYPE_CHECKING:
    from argparse import _SubParsersAction  # argparse names what add_subparsers() returns nowhere else

    Commands = _SubParsersAction[Parser]

DESCRIPTION: Final = """\
Makes, renews, revokes and shows the certificates that jobd's servers and clients need.

Exit status: 0 when it is done; 1 when it could not be done, with one line on stderr that says why; 2 when the command
line is wrong; 3 when --expires-within found something; 130 after Ctrl-C. With --json each command prints one JSON
object a line, and its names stay as they are: new ones may be added."""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = Parser("jobpki", description=DESCRIPTION, formatter_class=argparse.RawTextHelpFormatter)
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_init(verbs)
    _add_server(verbs)
    _add_client(verbs)
    _add_request(verbs)
    _add_sign(verbs)
    _add_renew(verbs)
    _add_revoke(verbs)
    _add_crl(verbs)
    _add_list(verbs)
    _add_show(verbs)
    return parser


def _add_init(verbs: Commands) -> None:
    parser = _verb(verbs, "init", issue.init, "make a CA: DIR/ca.crt, DIR/ca.key and DIR/index.jsonl")
    add_new_dir(parser)
    above = parser.add_mutually_exclusive_group()
    above.add_argument(
        "--signed-by", metavar="PARENT", type=Path, help="make an intermediate CA, signed by the CA in this directory"
    )
    above.add_argument(
        "--certificate",
        metavar="FILE",
        type=Path,
        help="end what 'jobpki request DIR ca' began: take the certificate for DIR/ca.key that was signed elsewhere",
    )
    parser.add_argument("--name", help=f"the CA's common name (default: {CA_NAME}, or {INTERMEDIATE_NAME})")
    years = f"(default: {CA_LIFETIME.days}, or {INTERMEDIATE.lifetime.days} below another)"
    parser.add_argument("--days", type=days, metavar="N", help=f"valid for N days {years}")
    add_path_length(parser)
    add_key(parser)
    add_ca_key(parser)
    add_force(parser)


def _add_server(verbs: Commands) -> None:
    parser = _verb(verbs, "server", issue.server, "make a server's key, request and certificate")
    add_dir(parser)
    add_hosts(parser, required=True)
    add_server_stem(parser)
    add_days(parser, SERVER.lifetime)
    add_key(parser)
    add_ca_key(parser)
    add_force(parser)


def _add_client(verbs: Commands) -> None:
    parser = _verb(verbs, "client", issue.client, "make a client's key, request and certificate")
    add_dir(parser)
    add_name(parser)
    add_roles(parser)
    add_stem(parser, "NAME")
    add_days(parser, CLIENT.lifetime)
    add_key(parser)
    add_ca_key(parser)
    add_force(parser)


def _add_request(verbs: Commands) -> None:
    parser = verbs.add_parser("request", help="make a key and a request, to be signed by a CA elsewhere")
    add_new_dir(parser)
    profiles = parser.add_subparsers(required=True, metavar="server|client|ca")
    server = _verb(profiles, "server", issue.request_server, "for a server")
    add_hosts(server, required=True)
    add_server_stem(server)
    client = _verb(profiles, "client", issue.request_client, "for a client; its roles are up to the signer")
    add_name(client)
    add_stem(client, "NAME")
    ca = _verb(profiles, "ca", issue.request_ca, "for an intermediate CA; 'jobpki init DIR --certificate' ends it")
    ca.add_argument("--name", default=INTERMEDIATE_NAME, help="the CA's common name (default: %(default)s)")
    for profile in (server, client, ca):
        add_key(profile)
        add_force(profile)


def _add_sign(verbs: Commands) -> None:
    parser = verbs.add_parser("sign", help="sign a request with the CA in DIR; writes DIR/STEM.crt")
    add_dir(parser)
    parser.add_argument("csr", metavar="CSR", type=Path, help="the request, in PEM or DER, from jobpki or openssl")
    profiles = parser.add_subparsers(required=True, metavar="server|client|ca")
    server = _verb(profiles, "server", issue.sign_server, "as a server's")
    add_hosts(server, required=False)
    client = _verb(profiles, "client", issue.sign_client, "as a client's")
    client.add_argument("--name", help="refuse the request unless it is for this principal")
    add_roles(client)
    ca = _verb(profiles, "ca", issue.sign_intermediate, "as an intermediate CA's, with those of the CAs above it")
    add_path_length(ca)
    for profile, default in ((server, SERVER), (client, CLIENT), (ca, INTERMEDIATE)):
        add_stem(profile, "that of CSR")
        add_days(profile, default.lifetime)
        add_ca_key(profile)
        add_force(profile)


def _add_renew(verbs: Commands) -> None:
    parser = _verb(verbs, "renew", lifetime.renew, "renew a server's or client's certificate, in its place")
    add_dir(parser, "where the CA is")
    parser.add_argument(
        "file", metavar="FILE", type=Path, help="the certificate; subject, hosts, roles and profile stay as they are"
    )
    parser.add_argument("--new-key", action="store_true", help="for a new key, beside it (default: the same key)")
    parser.add_argument("--revoke-old", action="store_true", help="revoke the old one (default: it stays good)")
    add_stem(parser, "that of FILE, which is replaced")
    parser.add_argument("--days", type=days, metavar="N", help="valid for N days (default: as long as the old one was)")
    add_key(parser, None, "that of the old key")
    add_ca_key(parser)
    add_force(parser)


def _add_revoke(verbs: Commands) -> None:
    parser = _verb(verbs, "revoke", lifetime.revoke, "revoke a certificate for good; 'jobpki crl' then tells peers")
    add_dir(parser, "where the CA is; its key is not needed")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--file", type=Path, help="the certificate in this file")
    which.add_argument("--serial", metavar="HEX", help="the certificate with this serial number")
    which.add_argument("--name", help="the certificate in force for this principal, or server's first host")
    parser.add_argument("--all", action="store_true", help="with --name: all that are in force, if there are several")
    parser.add_argument(
        "--reason",
        choices=[str(reason) for reason in Reason],
        default=str(Reason.UNSPECIFIED),
        help="why (RFC 5280, section 5.3.1; default: %(default)s)",
    )


def _add_crl(verbs: Commands) -> None:
    parser = _verb(verbs, "crl", lifetime.crl, "sign a new revocation list, in the place of the last one")
    add_dir(parser, "where the CA is")
    parser.add_argument("--out", metavar="FILE", type=Path, help=f"where the list goes (default: DIR/{CRL_NAME})")
    parser.add_argument(
        "--days",
        type=days,
        default=CRL_LIFETIME,
        metavar="N",
        help=f"the next one will be there within N days (default: {CRL_LIFETIME.days})",
    )
    add_ca_key(parser)


def _add_list(verbs: Commands) -> None:
    parser = _verb(verbs, "list", lifetime.list_issued, "say what the CA has issued, and what of it is revoked")
    add_dir(parser, "where the CA is; its key is not needed")
    add_expires_within(parser)


def _add_show(verbs: Commands) -> None:
    parser = _verb(
        verbs,
        "show",
        lifetime.show,
        "say what a certificate, request, revocation list or key is and may do (not whether to trust it)",
    )
    parser.add_argument("file", metavar="FILE", type=Path, nargs="+")
    add_expires_within(parser)


def _verb(verbs: Commands, name: str, command: Command, summary: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=summary, description=summary)
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.set_defaults(command=command)
    return parser
