"""How a certificate is put together and signed, and what a CA's certificate says of its own key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from pki.files import NewFile
from pki.keys import SigningKey, VerifyingKey, signature_hash
from pki.profiles import Extension, ca_extensions
from pki.validity import Validity


def may_sign(certificate: x509.Certificate) -> bool:
    """Whether a certificate's extensions let its key sign certificates (RFC 5280, sections 4.2.1.3 and 4.2.1.9)."""
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.KeyUsage) and not extension.value.key_cert_sign:
            return False
    return any(isinstance(ext.value, x509.BasicConstraints) and ext.value.ca for ext in certificate.extensions)


def may_sign_crls(certificate: x509.Certificate) -> bool:
    """Whether a certificate's key usage, if it has one, lets its key sign revocation lists."""
    usages = [ext.value for ext in certificate.extensions if isinstance(ext.value, x509.KeyUsage)]
    return all(usage.crl_sign for usage in usages)


def is_self_issued(certificate: x509.Certificate) -> bool:
    """Whether a certificate names itself as its issuer, as a root does."""
    return certificate.issuer == certificate.subject


def path_length(ca: x509.Certificate) -> int | None:
    """How many CAs may stand below this one in a chain; None if its certificate sets no limit."""
    for extension in ca.extensions:
        if isinstance(extension.value, x509.BasicConstraints):
            return extension.value.path_length
    return None


def key_identifier(ca: x509.Certificate) -> x509.SubjectKeyIdentifier:
    """The identifier that a CA's certificate gives to its key, or the usual one: a CA made elsewhere may differ."""
    for extension in ca.extensions:
        if isinstance(extension.value, x509.SubjectKeyIdentifier):
            return extension.value
    return x509.SubjectKeyIdentifier.from_public_key(ca.public_key())


def self_signed(key: SigningKey, name: x509.Name, validity: Validity, path_length: int = 0) -> x509.Certificate:
    """A root's certificate for ``key``, signed by itself."""
    extensions = ca_extensions(key.public_key(), path_length=path_length)
    return sign_certificate(key, name, name, key.public_key(), validity, extensions)


def sign_certificate(
    signer: SigningKey,
    issuer: x509.Name,
    subject: x509.Name,
    key: VerifyingKey,
    validity: Validity,
    extensions: Sequence[Extension],
) -> x509.Certificate:
    """A certificate for the public ``key``, signed by ``signer``."""
    builder = x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),  # 20 bytes at most, positive: RFC 5280, section 4.1.2.2
        not_valid_before=validity.not_before,
        not_valid_after=validity.not_after,
    )
    for extension in extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(signer, signature_hash(signer))


def certificate_file(path: Path, *certificates: x509.Certificate) -> NewFile:
    """A file of certificates in this order, still to be written."""
    return NewFile(path, b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates))
