"""A client's certificate and those above it, as TLS verified them: what is asked of them for as long as it is here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

Identity = tuple[bytes, bytes]
"""Of a CA: its name and its key. Two certificates with the same are the same CA."""


@dataclass(frozen=True, slots=True)
class Chain:
    """From the client's own certificate up to the root.

    Attributes:
        issued: each certificate but the root's, with that of the CA that issued it.
        root: who the root is.
        ends: when the first of them, the root included, expires.
    """

    issued: tuple[tuple[x509.Certificate, Issuer], ...]
    root: Identity
    ends: datetime

    @property
    def leaf(self) -> x509.Certificate:
        """The client's own."""
        return self.issued[0][0]


@dataclass(frozen=True, slots=True)
class Issuer:
    """A CA, by one of its certificates."""

    identity: Identity
    certificate: x509.Certificate

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Issuer:
        return cls(identity_of(certificate), certificate)


@lru_cache(maxsize=256)  # clients come again
def chain_of(ders: tuple[bytes, ...]) -> Chain:
    """The chain that a TLS connection gives.

    Raises:
        ValueError: a certificate in it cannot be parsed, or it has no CA's.
    """
    try:
        certificates = [x509.load_der_x509_certificate(der) for der in ders]
    except x509.InvalidVersion as exc:
        raise ValueError("a certificate of a version that there is not") from exc
    issuers = [Issuer.of(certificate) for certificate in certificates[1:]]
    if not issuers:
        raise ValueError("a client's certificate that is trusted by itself")
    issued = tuple(zip(certificates[:-1], issuers, strict=True))
    return Chain(issued, issuers[-1].identity, min(each.not_valid_after_utc for each in certificates))


def identity_of(certificate: x509.Certificate) -> Identity:
    """Who a CA is."""
    try:
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (UnsupportedAlgorithm, ValueError):  # of a kind that OpenSSL alone knows: then only the very same will do
        key = certificate.fingerprint(hashes.SHA256())
    return (certificate.subject.public_bytes(), key)
