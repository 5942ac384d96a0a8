"""From files to certificates, requests and keys: the one place where parsing fails, and says so.

PEM (RFC 7468), with or without text before it, or DER.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from api.errors import CredentialsError
from pki.errors import PassphraseError
from pki.files import read_file
from pki.keys import SigningKey, accept_private

MAX_CRL_BYTES: Final = 1 << 24
"""Room for about 300,000 revoked certificates."""

Ask = Callable[[], bytes]
"""Gives a key's passphrase. It is called only if the key is encrypted."""


def load_certificate(path: Path, what: str = "certificate") -> x509.Certificate:
    """The first certificate in ``path``.

    Raises:
        CredentialsError: it cannot be read or parsed.
    """
    content = read_file(path, what)
    with parsing(what, str(path)):
        return x509.load_pem_x509_certificate(content) if is_pem(content) else x509.load_der_x509_certificate(content)


def load_certificates(path: Path, what: str = "certificate") -> list[x509.Certificate]:
    """All certificates in ``path``, in their order; at least one.

    Raises:
        CredentialsError: it cannot be read, or one of them cannot be parsed.
    """
    content = read_file(path, what)
    with parsing(what, str(path)):
        if is_pem(content):
            return x509.load_pem_x509_certificates(content)
        return [x509.load_der_x509_certificate(content)]


def load_request(path: Path) -> x509.CertificateSigningRequest:
    """The certificate request in ``path``; nothing is said about whether to grant it.

    Raises:
        CredentialsError: it cannot be read or parsed.
    """
    content = read_file(path, "certificate request")
    with parsing("certificate request", str(path)):
        return x509.load_pem_x509_csr(content) if is_pem(content) else x509.load_der_x509_csr(content)


def load_crl(path: Path) -> x509.CertificateRevocationList:
    """The first revocation list in ``path``; whether it is good is not judged here.

    Raises:
        CredentialsError: it cannot be read or parsed.
    """
    content = read_file(path, "revocation list", MAX_CRL_BYTES)
    with parsing("revocation list", str(path)):
        return x509.load_pem_x509_crl(content) if is_pem(content) else x509.load_der_x509_crl(content)


def load_key(path: Path, what: str = "private key", ask: Ask | None = None) -> SigningKey:
    """The private key in ``path``; ``ask`` gives its passphrase if it is encrypted.

    Raises:
        CredentialsError: it cannot be read or parsed, or is of a kind that is not accepted.
        PassphraseError: it is encrypted, and there is nobody to ask, or the passphrase is wrong.
    """
    content = read_file(path, what)
    load = serialization.load_pem_private_key if is_pem(content) else serialization.load_der_private_key
    with parsing(what, str(path)):
        try:
            key = load(content, password=None)
        except TypeError:  # this is how the library says that it is encrypted
            pass
        else:
            return accept_private(key, str(path))
    if ask is None:
        raise PassphraseError(f"the {what} {path} is encrypted: give its passphrase")
    try:
        key = load(content, password=ask())
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise PassphraseError(f"the passphrase is not that of the {what} {path}, or the file is damaged") from exc
    return accept_private(key, str(path))


def is_pem(content: bytes) -> bool:
    """Whether there is a PEM block in ``content``."""
    return b"-----BEGIN " in content


def holds(path: Path, label: str) -> bool:
    """Whether a PEM file has a block whose label ends with this.

    Raises:
        CredentialsError: it cannot be read.
    """
    return f"{label}-----\n".encode() in read_file(path, "file", MAX_CRL_BYTES).replace(b"\r\n", b"\n")


@contextlib.contextmanager
def parsing(what: str, source: str) -> Iterator[None]:
    """Translates what the parser raises. It parses parts late, so reading an attribute can fail as well.

    Raises:
        CredentialsError: the parser gave up.
    """
    try:
        yield
    except (
        ValueError,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as exc:
        raise CredentialsError(f"{source} holds no {what} that can be read: it is damaged, or something else") from exc
