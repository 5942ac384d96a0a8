"""What ends soon: certificates and revocation lists in files, and what is in a CA's index."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from api.errors import CredentialsError
from pki.describe import Facts, describe_certificate, describe_crl
from pki.index import Entry, Index
from pki.reading import holds, load_certificates, load_crl


def expiring_in(path: Path, within: timedelta, now: datetime) -> Iterator[Facts]:
    """The facts of each certificate or list in ``path`` that ends ``within`` this time, or has ended.

    Raises:
        CredentialsError: the file cannot be read, or holds neither.
    """
    if holds(path, "X509 CRL"):
        crl = load_crl(path)
        end = crl.next_update_utc
        if end is None or end <= now + within:
            yield {"file": str(path), **describe_crl(crl, now, str(path))}
        return
    if holds(path, "PRIVATE KEY") or holds(path, "CERTIFICATE REQUEST"):
        raise CredentialsError(f"{path} is a key or request, which has no end: leave out --expires-within")
    for certificate in load_certificates(path):
        if certificate.not_valid_after_utc <= now + within:
            yield {"file": str(path), **describe_certificate(certificate, now, str(path))}


def expiring_entries(index: Index, within: timedelta, now: datetime) -> list[Entry]:
    """What ends ``within`` this time, or has ended, unless it is revoked or was renewed.

    Renewed is what the same have a later one for, that ends no sooner.
    """
    lasts: dict[tuple[str | int, str], datetime] = {}
    found = []
    for entry in reversed(list(index.entries.values())):
        if entry.revoked is None:
            same = (entry.subject or entry.serial, entry.profile)
            if entry.not_after <= now + within and not (same in lasts and entry.not_after <= lasts[same]):
                found.append(entry)
            lasts[same] = max(entry.not_after, lasts.get(same, entry.not_after))
    return found[::-1]


def describe_entry(entry: Entry, now: datetime) -> Facts:
    """An entry of an index as facts."""
    if entry.revoked is not None:
        state = "revoked"
    else:
        state = "expired" if now > entry.not_after else "not yet valid" if now < entry.not_before else "valid"
    return {**entry.fields(), "state": state, "days_left": (entry.not_after - now) // timedelta(days=1)}


def entry_line(facts: Facts) -> str:
    """An entry on one line."""
    why = f" ({facts['reason']})" if facts["reason"] else ""
    name = facts["name"] or facts["subject"] or "(no name)"
    return f"{facts['serial']}  {facts['valid_until']}  {facts['profile']}  {facts['state']}{why}  {name}"


def expiry_line(facts: Facts) -> str:
    """What ends soon on one line."""
    end = facts.get("valid_until") or facts.get("next_update")
    whose = facts.get("principal") or facts.get("subject") or facts.get("issuer")
    return (
        f"{facts['file']}: {facts['what']} of {whose}: {facts['state']}, until {end} ({facts['days_left']} days left)"
    )
