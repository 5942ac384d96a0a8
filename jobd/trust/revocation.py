"""Revocation lists (RFC 5280, section 5): which there are, whose, and what they say.

Whole lists of the CA that issued the certificates: neither indirect nor delta, whose critical extensions say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from api.errors import CredentialsError
from jobd.trust.chain import Issuer

_BEGIN: Final = b"-----BEGIN X509 CRL-----"
_END: Final = b"-----END X509 CRL-----"
_UNREADABLE: Final = (ValueError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension)


@dataclass(frozen=True, slots=True)
class RevocationList:
    """One CA's list.

    Attributes:
        name, issuer: what that CA is called, as text and as it is written.
        revoked: the serial numbers.
        begins: when it was made.
        ends: when the next one has to be there (``nextUpdate``).
        number: grows from each to the next; None where it is not numbered.
    """

    crl: x509.CertificateRevocationList
    name: str
    issuer: bytes
    revoked: frozenset[int]
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
        self._found: dict[Issuer, RevocationList | None] = {}

    def of(self, ca: Issuer) -> RevocationList | None:
        """This CA's newest; None if it has none here."""
        # By the certificate: one CA can have several, of which some may not sign lists. There are few: those of
        # trusted CAs, and of intermediate ones that they signed.
        if ca not in self._found:
            self._found[ca] = next((each for each in self._newest_first if each.is_of(ca)), None)
        return self._found[ca]

    @property
    def asked_of(self) -> Sequence[Issuer]:
        """The CAs whose list was wanted so far."""
        return list(self._found)

    @property
    def all(self) -> Sequence[RevocationList]:
        """Each of them."""
        return self._newest_first


def parse_lists(content: bytes, path: Path) -> Lists:
    """The lists in a file: PEM, one after another, or one in DER. Takes its time when they are long.

    Raises:
        CredentialsError: there is none, or one that cannot be read or is of another kind.
    """
    if content.count(_BEGIN) != content.count(_END):  # cut within the last line, it would be a file with one list less
        raise CredentialsError(f"{path} holds a revocation list that is not whole: half written")
    try:
        if b"-----BEGIN " in content:
            crls = [x509.load_pem_x509_crl(block) for block in _blocks(content)]
        else:
            crls = [x509.load_der_x509_crl(content)]
        lists = [_parse(crl, path) for crl in crls]
    except _UNREADABLE as exc:
        raise CredentialsError(f"{path} holds a revocation list that cannot be read: it is damaged") from exc
    if not lists:
        raise CredentialsError(f"{path} holds no revocation list")
    return Lists(lists)


def _blocks(content: bytes) -> Iterator[bytes]:
    # A regular expression takes longer for it than the parser for the rest.
    for part in content.split(_END)[:-1]:
        _, begin, body = part.partition(_BEGIN)
        yield begin + body + _END


def _parse(crl: x509.CertificateRevocationList, path: Path) -> RevocationList:
    # A delta has to say critically that it is one (RFC 5280, 5.2.4); taken for whole, it would bring all others back.
    if any(each.critical or isinstance(each.value, x509.DeltaCRLIndicator) for each in crl.extensions):
        raise CredentialsError(f"{path} holds a revocation list that is not whole (a delta, indirect, or of a part)")
    if crl.next_update_utc is None:
        raise CredentialsError(f"{path} holds a revocation list that does not say until when it is good (nextUpdate)")
    numbers = [ext.value.crl_number for ext in crl.extensions if isinstance(ext.value, x509.CRLNumber)]
    return RevocationList(
        crl,
        crl.issuer.rfc4514_string(),
        crl.issuer.public_bytes(),
        # What more an entry says is not read: it would take most of the time, and who is on the list is refused.
        frozenset(entry.serial_number for entry in crl),
        crl.last_update_utc,
        crl.next_update_utc,
        max(numbers, default=None),
    )


def _may_sign_lists(ca: x509.Certificate) -> bool:
    try:
        return ca.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True
    except _UNREADABLE:
        return False
