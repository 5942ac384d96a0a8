"""What each command does: it makes or reads files, and returns the facts to be printed."""

from __future__ import annotations

import sys
from argparse import Namespace
from datetime import datetime
from pathlib import Path

from cryptography import x509

from api.identity import Role
from pki.authority import Authority
from pki.certificates import certificate_file
from pki.console import say
from pki.describe import Facts, describe_certificate, describe_file
from pki.files import check_stem, check_targets, open_to_others, write_files
from pki.reading import load_certificate
from pki.requests import Request, RequestFiles, make_client_request, make_server_request
from pki.validity import utc_text


def init(args: Namespace, now: datetime) -> Facts:
    """Make a CA."""
    authority = Authority.create(args.dir, now=now, name=args.name, lifetime=args.days, force=args.force)
    return {
        "made": "a CA: keep its key here, and give its certificate to every server and client",
        "key": str(authority.key_path),
        "certificate": str(authority.certificate_path),
        "name": args.name,
        "valid_until": utc_text(authority.certificate.not_valid_after_utc),
    }


def server(args: Namespace, now: datetime) -> Facts:
    """Make a server's key, request and certificate."""
    files = _authority(args).issue_server(
        args.dir, args.host, now=now, stem=args.out, lifetime=args.days, force=args.force
    )
    return {
        "made": "a server's key, request and certificate",
        "key": str(files.key),
        "request": str(files.csr),
        **_issued(files.certificate, now),
    }


def client(args: Namespace, now: datetime) -> Facts:
    """Make a client's key, request and certificate."""
    files = _authority(args).issue_client(
        args.dir, args.name, _roles(args), now=now, stem=args.out, lifetime=args.days, force=args.force
    )
    return {
        "made": "a client's key, request and certificate",
        "key": str(files.key),
        "request": str(files.csr),
        **_issued(files.certificate, now),
    }


def request_server(args: Namespace, now: datetime) -> Facts:
    """Make a server's key and request."""
    del now  # a request has no dates
    files = make_server_request(args.dir, args.host, stem=args.out, force=args.force)
    return _requested("server", files, {"hosts": args.host})


def request_client(args: Namespace, now: datetime) -> Facts:
    """Make a client's key and request."""
    del now
    files = make_client_request(args.dir, args.name, stem=args.out, force=args.force)
    return _requested("client", files, {"principal": args.name})


def sign_server(args: Namespace, now: datetime) -> Facts:
    """Sign a server's request."""
    authority, target, request = _to_sign(args)
    certificate = authority.sign_server(request, args.host, now=now, lifetime=args.days)
    return _signed("server", target, certificate, request, args, now)


def sign_client(args: Namespace, now: datetime) -> Facts:
    """Sign a client's request."""
    authority, target, request = _to_sign(args)
    certificate = authority.sign_client(request, _roles(args), name=args.name, now=now, lifetime=args.days)
    return _signed("client", target, certificate, request, args, now)


def show(args: Namespace, now: datetime) -> Facts:
    """Say what a file holds."""
    return describe_file(args.file, now)


def _roles(args: Namespace) -> list[Role]:
    return [Role(role) for role in args.role]


def _authority(args: Namespace) -> Authority:
    authority = Authority.load(args.dir)
    if open_to_others(authority.key_path):
        say(
            f"jobpki: warning: others can open the CA key {authority.key_path}, and so sign what they like: "
            f"chmod 400 {authority.key_path}",
            sys.stderr,
        )
    return authority


def _to_sign(args: Namespace) -> tuple[Authority, Path, Request]:
    request = Request.load(args.csr)
    stem = args.csr.stem if args.out is None else args.out
    target = args.dir / f"{check_stem(stem)}.crt"
    authority = _authority(args)
    check_targets([target], force=args.force)
    return authority, target, request


def _signed(
    profile: str, target: Path, certificate: x509.Certificate, request: Request, args: Namespace, now: datetime
) -> Facts:
    write_files([certificate_file(target, certificate)], force=args.force)
    facts: Facts = {"made": f"a {profile}'s certificate", **_issued(target, now)}
    left_out = _left_out(request.csr.subject, certificate.subject)
    return {**facts, "left_out_of_the_subject": left_out} if left_out else facts


def _left_out(asked: x509.Name, granted: x509.Name) -> list[str]:
    """What a request's subject has that the certificate's has not: none of it would grant anything."""
    return [attribute.rfc4514_string() for attribute in asked if attribute not in granted]


def _requested(profile: str, files: RequestFiles, whom: Facts) -> Facts:
    return {
        "made": f"a {profile}'s key and request: send the request to whoever has the CA, for jobpki sign",
        "key": str(files.key),
        "request": str(files.csr),
        **whom,
    }


def _issued(path: Path, now: datetime) -> Facts:
    """For whom a certificate is and until when, read back from the file: what is said is what is there."""
    facts = describe_certificate(load_certificate(path), now, str(path))
    told = ("principal", "roles", "hosts", "may", "serial", "valid_until")
    return {"certificate": str(path), **{key: facts[key] for key in told if key in facts}}
