"""What becomes of certificates: renewing, revoking, lists, and what expires."""

from __future__ import annotations

from argparse import Namespace
from datetime import datetime

from pki.ca_files import load_chain
from pki.commands.arguments import authority_in, new_passphrase
from pki.commands.issue import issued
from pki.crl import make_crl
from pki.describe import Facts, describe_file
from pki.expiry import describe_entry, entry_line, expiring_entries, expiring_in, expiry_line
from pki.index_file import read_index
from pki.keys import KeyKind
from pki.renewal import renew as renew_certificate
from pki.report import EXPIRES, Report
from pki.revocation import Reason, by_certificate, by_file, by_name, by_serial
from pki.revocation import revoke as revoke_certificates
from pki.validity import utc_text


def renew(args: Namespace, now: datetime) -> Report:
    """Renew a certificate, and revoke the old one if that is wished."""
    authority = authority_in(args.dir, args)
    renewal = renew_certificate(
        authority,
        args.file,
        now=now,
        lifetime=args.days,
        stem=args.out,
        with_new_key=args.new_key,
        kind=KeyKind(args.key_type) if args.key_type else None,
        passphrase=new_passphrase(args, args.file.with_suffix(".key")) if args.new_key else None,
        force=args.force,
    )
    old = renewal.old.certificate
    facts: Facts = {
        "made": "a new certificate, for a new key" if renewal.key else "a new certificate, for the same key",
        **({"key": str(renewal.key)} if renewal.key else {}),
        **issued(renewal.certificate, now),
        "old_serial": f"{old.serial_number:x}",
    }
    if not args.revoke_old:
        return Report([{**facts, "old_certificate": f"good until {utc_text(old.not_valid_after_utc)}"}])
    revoke_certificates(args.dir, by_certificate(old, str(args.file)), Reason.SUPERSEDED, now)
    return Report([{**facts, "old_certificate": "revoked (superseded)", "next": _next(args)}])


def revoke(args: Namespace, now: datetime) -> Report:
    """Revoke certificates."""
    if args.file is not None:
        choice = by_file(args.dir, load_chain(args.dir).certificate, args.file)
    elif args.serial is not None:
        choice = by_serial(args.dir, args.serial)
    else:
        choice = by_name(args.dir, args.name, now, every=args.all)
    entries = revoke_certificates(args.dir, choice, Reason(args.reason), now)
    return Report([{"made": "a revocation", **describe_entry(entry, now), "next": _next(args)} for entry in entries])


def crl(args: Namespace, now: datetime) -> Report:
    """Sign a new revocation list."""
    made = make_crl(authority_in(args.dir, args), now=now, lifetime=args.days, path=args.out)
    facts: Facts = {
        "made": "a revocation list",
        "crl": str(made.path),
        "number": made.number,
        "revoked": len(made.crl),
        "next_update": utc_text(now + args.days),
    }
    return Report([facts])


def show(args: Namespace, now: datetime) -> Report:
    """Say what files hold; or which of them expire soon, and nothing if none does."""
    if args.expires_within is None:
        if len(args.file) == 1:
            return Report([describe_file(args.file[0], now)])
        return Report([{"file": str(path), **describe_file(path, now)} for path in args.file])
    soon = [facts for path in args.file for facts in expiring_in(path, args.expires_within, now)]
    return Report(soon, expiry_line, EXPIRES if soon else 0)


def list_issued(args: Namespace, now: datetime) -> Report:
    """What the CA has issued; or what of it expires soon, and nothing if none does."""
    index = read_index(args.dir, load_chain(args.dir).certificate)
    if args.expires_within is None:
        return Report([describe_entry(entry, now) for entry in index.entries.values()], entry_line)
    soon = expiring_entries(index, args.expires_within, now)
    return Report([describe_entry(entry, now) for entry in soon], entry_line, EXPIRES if soon else 0)


def _next(args: Namespace) -> str:
    return f"jobpki crl {args.dir}: peers learn of it from the next revocation list only"
