"""Making: CAs, keys, requests and certificates."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from cryptography import x509

from api.errors import ConfigError
from pki.authority import Authority
from pki.ca_files import CERTIFICATE_NAME, KEY_NAME
from pki.certificates import certificate_file
from pki.commands.arguments import authority_in, ca_passphrase, new_passphrase, roles_in
from pki.describe import Facts, describe_certificate
from pki.files import check_stem, check_targets, write_files
from pki.intermediate import complete_intermediate, create_intermediate, sign_ca
from pki.keys import KeyKind
from pki.names import common_names
from pki.profiles import CA_LIFETIME, CA_NAME, INTERMEDIATE, INTERMEDIATE_NAME
from pki.reading import load_certificate
from pki.report import Report
from pki.request_files import RequestFiles, make_ca_request, make_client_request, make_server_request
from pki.requests import Request
from pki.validity import utc_text


def init(args: Namespace, now: datetime) -> Report:
    """Make a CA: a root, or one below another."""
    if args.certificate is not None:
        return _complete(args)
    if args.signed_by is not None:
        return _init_below(args, now)
    check_targets([args.dir / KEY_NAME, args.dir / CERTIFICATE_NAME], force=args.force)
    authority = Authority.create(
        args.dir,
        now=now,
        name=args.name or CA_NAME,
        lifetime=args.days or CA_LIFETIME,
        path_length=args.path_length,
        kind=KeyKind(args.key_type),
        passphrase=new_passphrase(args, args.dir / KEY_NAME),
        force=args.force,
    )
    made = "a CA: keep its key here, and give its certificate to every server and client"
    return _ca_made(made, args.dir, authority.certificate)


def server(args: Namespace, now: datetime) -> Report:
    """Make a server's key, request and certificate."""
    files = authority_in(args.dir, args).issue_server(
        args.dir,
        args.host,
        now=now,
        stem=args.out,
        lifetime=args.days,
        kind=KeyKind(args.key_type),
        passphrase=new_passphrase(args, args.dir / f"{args.out}.key"),
        force=args.force,
    )
    return _all_made("server", files.key, files.csr, files.certificate, now)


def client(args: Namespace, now: datetime) -> Report:
    """Make a client's key, request and certificate."""
    files = authority_in(args.dir, args).issue_client(
        args.dir,
        args.name,
        roles_in(args),
        now=now,
        stem=args.out,
        lifetime=args.days,
        kind=KeyKind(args.key_type),
        passphrase=new_passphrase(args, args.dir / f"{args.out or args.name}.key"),
        force=args.force,
    )
    return _all_made("client", files.key, files.csr, files.certificate, now)


def request_server(args: Namespace, now: datetime) -> Report:
    """Make a server's key and request."""
    del now  # a request has no dates
    passphrase = new_passphrase(args, args.dir / f"{args.out}.key")
    kind = KeyKind(args.key_type)
    files = make_server_request(args.dir, args.host, stem=args.out, kind=kind, passphrase=passphrase, force=args.force)
    return _requested("server", files, {"hosts": args.host})


def request_client(args: Namespace, now: datetime) -> Report:
    """Make a client's key and request."""
    del now
    passphrase = new_passphrase(args, args.dir / f"{args.out or args.name}.key")
    kind = KeyKind(args.key_type)
    files = make_client_request(args.dir, args.name, stem=args.out, kind=kind, passphrase=passphrase, force=args.force)
    return _requested("client", files, {"principal": args.name})


def request_ca(args: Namespace, now: datetime) -> Report:
    """Make an intermediate CA's key and request."""
    del now
    passphrase = new_passphrase(args, args.dir / KEY_NAME)
    files = make_ca_request(args.dir, args.name, kind=KeyKind(args.key_type), passphrase=passphrase, force=args.force)
    return _requested("CA", files, {"name": args.name})


def sign_server(args: Namespace, now: datetime) -> Report:
    """Sign a server's request."""
    authority, target, request = _to_sign(args)
    certificate = authority.sign_server(request, args.host, now=now, lifetime=args.days)
    return _signed("server", target, (certificate, *authority.chain.sent), request, args, now)


def sign_client(args: Namespace, now: datetime) -> Report:
    """Sign a client's request."""
    authority, target, request = _to_sign(args)
    certificate = authority.sign_client(request, roles_in(args), name=args.name, now=now, lifetime=args.days)
    return _signed("client", target, (certificate, *authority.chain.sent), request, args, now)


def sign_intermediate(args: Namespace, now: datetime) -> Report:
    """Sign an intermediate CA's request."""
    authority, target, request = _to_sign(args)
    certificate = sign_ca(authority, request, now=now, length=args.path_length, lifetime=args.days)
    return _signed("CA", target, (certificate, *authority.chain.all), request, args, now)


def issued(path: Path, now: datetime) -> Facts:
    """For whom a certificate is and until when, read back from the file: what is said is what is there."""
    facts = describe_certificate(load_certificate(path), now, str(path))
    told = ("principal", "roles", "hosts", "may", "serial", "valid_until")
    return {"certificate": str(path), **{key: facts[key] for key in told if key in facts}}


def _init_below(args: Namespace, now: datetime) -> Report:
    parent = authority_in(args.signed_by, args)
    authority = create_intermediate(
        parent,
        args.dir,
        now=now,
        name=args.name or INTERMEDIATE_NAME,
        length=args.path_length,
        lifetime=args.days or INTERMEDIATE.lifetime,
        kind=KeyKind(args.key_type),
        passphrase=new_passphrase(args, args.dir / KEY_NAME),
        force=args.force,
    )
    made = f"a CA, signed by the one in {args.signed_by}: keep its key here, and give its certificate to all"
    return _ca_made(made, args.dir, authority.certificate)


def _complete(args: Namespace) -> Report:
    if args.name is not None or args.days is not None or args.path_length:
        raise ConfigError("with --certificate, the name, days and path length are those of the certificate: leave them")
    ask = ca_passphrase(args.dir, args)
    chain = complete_intermediate(args.dir, args.certificate, ask, force=args.force)
    made = "a CA of the key that was here, and the certificate that was signed elsewhere"
    return _ca_made(made, args.dir, chain.certificate)


def _ca_made(made: str, directory: Path, certificate: x509.Certificate) -> Report:
    facts: Facts = {
        "made": made,
        "key": str(directory / KEY_NAME),
        "certificate": str(directory / CERTIFICATE_NAME),
        "name": common_names(certificate.subject)[0],
        "valid_until": utc_text(certificate.not_valid_after_utc),
    }
    return Report([facts])


def _all_made(profile: str, key: Path, csr: Path, certificate: Path, now: datetime) -> Report:
    made: Facts = {"made": f"a {profile}'s key, request and certificate", "key": str(key), "request": str(csr)}
    return Report([{**made, **issued(certificate, now)}])


def _to_sign(args: Namespace) -> tuple[Authority, Path, Request]:
    request = Request.load(args.csr)
    stem = args.csr.stem if args.out is None else args.out
    target = args.dir / f"{check_stem(stem)}.crt"
    authority = authority_in(args.dir, args)
    check_targets([target], force=args.force)
    return authority, target, request


def _signed(
    profile: str,
    target: Path,
    certificates: Sequence[x509.Certificate],
    request: Request,
    args: Namespace,
    now: datetime,
) -> Report:
    write_files([certificate_file(target, *certificates)], force=args.force)
    facts: Facts = {"made": f"a {profile}'s certificate", **issued(target, now)}
    left_out = _left_out(request.csr.subject, certificates[0].subject)
    return Report([{**facts, "left_out_of_the_subject": left_out} if left_out else facts])


def _left_out(asked: x509.Name, granted: x509.Name) -> list[str]:
    """What a request's subject has that the certificate's has not: none of it would grant anything."""
    return [attribute.rfc4514_string() for attribute in asked if attribute not in granted]


def _requested(profile: str, files: RequestFiles, whom: Facts) -> Report:
    facts: Facts = {
        "made": f"a {profile}'s key and request: send the request to whoever has the CA, for jobpki sign",
        "key": str(files.key),
        "request": str(files.csr),
        **whom,
    }
    return Report([facts])
