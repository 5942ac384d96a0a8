"""Revocation lists (RFC 5280, section 5): made from a CA's index, whole; neither indirect nor delta."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from api.errors import CredentialsError
from pki.authority import Authority
from pki.certificates import may_sign_crls
from pki.files import NewFile, is_missing, write_files
from pki.index import Entry, Index
from pki.index_file import locked, read_index, write_index
from pki.keys import accept_public, signature_hash
from pki.reading import load_crl, parsing
from pki.revocation import Reason
from pki.validity import Validity

CRL_NAME: Final = "ca.crl"
CRL_LIFETIME: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class MadeCrl:
    """A new revocation list, and where it is."""

    path: Path
    number: int
    crl: x509.CertificateRevocationList


def make_crl(
    authority: Authority, *, now: datetime, lifetime: timedelta = CRL_LIFETIME, path: Path | None = None
) -> MadeCrl:
    """Sign a list of all that is revoked, and put it in the place of the last one, in one step.

    Its number is one more than the last. It is dated five minutes back, as certificates are, for peers whose clock is
    late. A certificate that expired before the last list is not on it any more (RFC 5280, section 3.3).

    Args:
        authority: whose list it is.
        now: the time.
        lifetime: until when the next one must be there (``nextUpdate``).
        path: where it goes, if not to ``ca.crl`` in the CA's directory.

    Raises:
        CredentialsError: the CA has expired or may not sign lists, its index cannot be read, or the list that is there
            has what the index does not: then nothing is changed.
        ConfigError: the index or the list cannot be written.
    """
    authority.check_time(now)
    if not may_sign_crls(authority.certificate):
        raise CredentialsError(f"{authority.certificate_path} may not sign revocation lists (keyUsage)")
    path = path or authority.directory / CRL_NAME
    validity = Validity.starting(now, lifetime)
    with locked(authority.directory):
        index = read_index(authority.directory, authority.certificate)
        number = max(index.crl_number, _check_last(authority, index, path)) + 1
        listed = [entry for entry in index.entries.values() if _is_listed(entry, index)]
        crl = _sign(authority, listed, number, validity)
        # The number is spent first: a crash leaves a gap in the numbers, never two lists of one number.
        write_index(authority.directory, index.with_crl(number, validity.not_before))
        write_files([NewFile(path, crl.public_bytes(serialization.Encoding.PEM))], force=True)
    return MadeCrl(path, number, crl)


def _is_listed(entry: Entry, index: Index) -> bool:
    return entry.revoked is not None and (index.crl_at is None or entry.not_after >= index.crl_at)


def _sign(
    authority: Authority, entries: Iterable[Entry], number: int, validity: Validity
) -> x509.CertificateRevocationList:
    identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority.key_identifier)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(validity.not_before)
        .next_update(validity.not_after)
        .add_extension(identifier, critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for entry in entries:
        builder = builder.add_revoked_certificate(_line(entry))
    return builder.sign(authority.key, signature_hash(authority.key))


def _line(entry: Entry) -> x509.RevokedCertificate:
    assert entry.revoked is not None
    builder = x509.RevokedCertificateBuilder(entry.serial, entry.revoked.at)
    if entry.revoked.reason != Reason.UNSPECIFIED:  # which is said by silence (RFC 5280, section 5.3.1)
        builder = builder.add_extension(x509.CRLReason(x509.ReasonFlags(entry.revoked.reason)), critical=False)
    return builder.build()


def _check_last(authority: Authority, index: Index, path: Path) -> int:
    """The number of the list at ``path``; 0 if there is none, or another CA's.

    An index that was lost, or put back from an old copy, must not bring revoked certificates back to life.
    """
    if is_missing(path):
        return 0
    try:
        last = load_crl(path)
    except CredentialsError as exc:
        raise CredentialsError(f"{exc}; if the CA's index is the newest, move that file away and ask again") from exc
    with parsing("revocation list", str(path)):
        if not last.is_signature_valid(accept_public(authority.certificate.public_key(), str(path))):
            return 0
        known = {entry.serial for entry in index.entries.values() if entry.revoked is not None}
        unknown = [line.serial_number for line in last if line.serial_number not in known]
        numbers = [ext.value.crl_number for ext in last.extensions if isinstance(ext.value, x509.CRLNumber)]
    if unknown:
        raise CredentialsError(
            f"{path} revokes {len(unknown)} certificates that are not revoked in the CA's index (the first is "
            f"{unknown[0]:x}): put a newer copy of the index back, or revoke them again by their files"
        )
    return max(numbers, default=0)
