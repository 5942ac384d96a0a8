"""Revocation lists (RFC 5280, section 5): which there are, whose, and what they say.

Whole lists of the CA that issued the certificates: neither indirect nor delta, whose critical extensions say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from api.errors import CredentialsError
from jobd.trust.chain import Identity, Issuer

_BLOCK: Final = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)
_UNREADABLE: Final = (ValueError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension)


@dataclass(frozen=True, slots=True)
class RevocationList:
    """One CA's list.

    Attributes:
        name, issuer: what that CA is called, as text and as it is written.
        revoked: why, by serial number.
        begins: when it was made.
        ends: when the next one has to be there (``nextUpdate``).
        number: grows from each to the next; None where it is not numbered.
    """

    crl: x509.CertificateRevocationList
    name: str
    issuer: bytes
    revoked: Mapping[int, str]
    begins: datetime
    ends: datetime
    number: int | None

    def is_of(self, ca: Issuer) -> bool:
        """This CA signed it, and may sign lists."""
        if self.issuer != ca.identity[0] or not _may_sign_lists(ca.certificate):
            return False
        try:
            # Of a kind that signs nothing: a TypeError.
            return self.crl.is_signature_valid(ca.certificate.public_key())  # type: ignore[arg-type] # see above
        except (TypeError, ValueError, UnsupportedAlgorithm):
            return False


class Lists:
    """All lists of a file."""

    def __init__(self, lists: Iterable[RevocationList]) -> None:
        self._newest_first = sorted(lists, key=lambda each: each.begins, reverse=True)
        self._found: dict[Identity, RevocationList | None] = {}

    def of(self, ca: Issuer) -> RevocationList | None:
        """This CA's newest; None if it has none here."""
        if ca.identity not in self._found:  # there are few CAs: intermediate ones that a trusted CA signed, and those
            self._found[ca.identity] = next((each for each in self._newest_first if each.is_of(ca)), None)
        return self._found[ca.identity]

    @property
    def all(self) -> Sequence[RevocationList]:
        """Each of them."""
        return self._newest_first


def parse_lists(content: bytes, path: Path) -> Lists:
    """The lists in a file: PEM, one after another, or one in DER. Takes its time when they are long.

    Raises:
        CredentialsError: there is none, or one that cannot be read or is of another kind.
    """
    try:
        if b"-----BEGIN " in content:
            crls = [x509.load_pem_x509_crl(block) for block in _BLOCK.findall(content)]
        else:
            crls = [x509.load_der_x509_crl(content)]
        lists = [_parse(crl, path) for crl in crls]
    except _UNREADABLE as exc:
        raise CredentialsError(f"{path} holds a revocation list that cannot be read: it is damaged") from exc
    if not lists:
        raise CredentialsError(f"{path} holds no revocation list")
    return Lists(lists)


def _parse(crl: x509.CertificateRevocationList, path: Path) -> RevocationList:
    if any(extension.critical for extension in crl.extensions):
        raise CredentialsError(f"{path} holds a revocation list that is not whole (a delta, or of a part): make one")
    if crl.next_update_utc is None:
        raise CredentialsError(f"{path} holds a revocation list that does not say until when it is good (nextUpdate)")
    revoked = {}
    for entry in crl:
        if any(extension.critical for extension in entry.extensions):
            raise CredentialsError(f"{path} holds a revocation list with entries of another CA (an indirect one)")
        revoked[entry.serial_number] = _reason(entry)
    numbers = [ext.value.crl_number for ext in crl.extensions if isinstance(ext.value, x509.CRLNumber)]
    return RevocationList(
        crl,
        crl.issuer.rfc4514_string(),
        crl.issuer.public_bytes(),
        revoked,
        crl.last_update_utc,
        crl.next_update_utc,
        max(numbers, default=None),
    )


def _reason(entry: x509.RevokedCertificate) -> str:
    for extension in entry.extensions:
        if isinstance(extension.value, x509.CRLReason):
            return str(extension.value.reason.value)
    return "unspecified"


def _may_sign_lists(ca: x509.Certificate) -> bool:
    try:
        return ca.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True
    except _UNREADABLE:
        return False
