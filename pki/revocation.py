"""Revoking: which certificate is meant, and that it is revoked from now on, in the CA's index.

Peers learn of it from the next revocation list (:mod:`pki.crl`). The CA's key is not needed here.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from cryptography import x509

from api.errors import ConfigError
from pki.ca_files import has_issued, load_chain
from pki.errors import ForeignCertificateError, NotIssuedError, RevokedError
from pki.index import Entry, Index, Revocation
from pki.index_file import index_path, locked, read_index, write_index
from pki.profiles import profile_name
from pki.reading import load_certificate, parsing
from pki.validity import utc_text


class Reason(enum.StrEnum):
    """Why a certificate is revoked (RFC 5280, section 5.3.1).

    Left out: certificateHold and removeFromCRL, since what is revoked here stays so, and aACompromise, which is for
    attribute certificates.
    """

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "keyCompromise"
    CA_COMPROMISE = "cACompromise"
    AFFILIATION_CHANGED = "affiliationChanged"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessationOfOperation"
    PRIVILEGE_WITHDRAWN = "privilegeWithdrawn"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which certificates in an index are meant.

    Attributes:
        text: how a message calls them.
        find: gives their entries, at least one.
    """

    text: str
    find: Callable[[Index], Sequence[Entry]]


def by_file(directory: Path, ca: x509.Certificate, path: Path) -> Choice:
    """The first certificate in ``path``. One that the index does not have, since it is older, is entered into it.

    Raises:
        CredentialsError: it cannot be read.
        ForeignCertificateError: it was not issued by the CA in ``directory``.
    """
    certificate = load_certificate(path)
    with parsing("certificate", str(path)):
        check_issued(directory, ca, certificate, path)
    return by_certificate(certificate, str(path))


def by_certificate(certificate: x509.Certificate, source: str) -> Choice:
    """This certificate, which was issued by the CA that is meant; ``source`` is what messages call it.

    Raises:
        CredentialsError: a part of it cannot be parsed.
    """
    with parsing("certificate", source):
        entry = Entry.of(certificate, profile_name(certificate))
    return Choice(source, lambda index: [index.entries.get(entry.serial, entry)])


def by_serial(directory: Path, text: str) -> Choice:
    """The certificate with this serial number, in hex, with or without colons.

    Raises:
        ConfigError: it is no number in hex.
    """
    digits = text.removeprefix("0x").replace(":", "")
    if not re.fullmatch(r"[0-9a-fA-F]{1,40}", digits):
        raise ConfigError(f"{text!a} is not a serial number: up to 40 digits in hex, as jobpki show prints it")
    serial = int(digits, 16)

    def find(index: Index) -> Sequence[Entry]:
        if serial not in index.entries:
            raise NotIssuedError(f"{index_path(directory)} has no certificate with the serial number {serial:x}")
        return [index.entries[serial]]

    return Choice(f"the serial number {serial:x}", find)


def by_name(directory: Path, name: str, now: datetime, *, every: bool = False) -> Choice:
    """The one certificate in force for ``name`` (a principal, or a server's first host), or ``every`` one."""

    def find(index: Index) -> Sequence[Entry]:
        named = index.named(name)
        if not named:
            raise NotIssuedError(f"{index_path(directory)} has no certificate for {name!a}")
        in_force = [entry for entry in named if entry.revoked is None and now <= entry.not_after]
        if not in_force:
            raise RevokedError(f"no certificate for {name!a} is in force: all are revoked or have expired")
        if len(in_force) > 1 and not every:
            serials = ", ".join(f"{entry.serial:x}" for entry in in_force)
            raise NotIssuedError(
                f"{len(in_force)} certificates for {name!a} are in force ({serials}): name one by its serial number, "
                f"or take --all"
            )
        return in_force

    return Choice(repr(name), find)


def revoke(directory: Path, choice: Choice, reason: Reason, now: datetime) -> list[Entry]:
    """Revoke the chosen certificates from ``now`` on, and return their entries, revoked.

    Raises:
        RevokedError: one is revoked already; then nothing is changed.
        NotIssuedError: none is meant, or more than one.
        CredentialsError, ConfigError: there is no CA, or its index cannot be read, locked or written.
    """
    ca = load_chain(directory).certificate
    with locked(directory):
        index = read_index(directory, ca)
        revoked = [_revoked(entry, choice, reason, now) for entry in choice.find(index)]
        for entry in revoked:
            index = index.with_entry(entry)
        write_index(directory, index)
    return revoked


def check_issued(directory: Path, ca: x509.Certificate, certificate: x509.Certificate, path: Path) -> None:
    """See that ``certificate``, from ``path``, was issued by the CA in ``directory``.

    Raises:
        ForeignCertificateError: it was not.
    """
    if has_issued(ca, certificate):
        return
    raise ForeignCertificateError(
        f"{path} was not issued by the CA in {directory}: its issuer is {certificate.issuer.rfc4514_string()!a}"
        + (", as here, but the signature is another key's" if certificate.issuer == ca.subject else "")
    )


def _revoked(entry: Entry, choice: Choice, reason: Reason, now: datetime) -> Entry:
    if entry.revoked is not None:
        raise RevokedError(
            f"{choice.text} ({entry.serial:x}) was revoked at {utc_text(entry.revoked.at)} ({entry.revoked.reason})"
        )
    return replace(entry, revoked=Revocation(now.replace(microsecond=0), str(reason)))
