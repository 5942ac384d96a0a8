"""From files to certificates, requests and keys: the one place where parsing fails, and says so.

PEM (RFC 7468), with or without text before it, or DER.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from api.errors import CredentialsError
from pki.files import read_file
from pki.keys import SigningKey, accept_private


def load_certificate(path: Path, what: str = "certificate") -> x509.Certificate:
    """The first certificate in ``path``.

    Raises:
        CredentialsError: it cannot be read or parsed.
    """
    content = read_file(path, what)
    with parsing(what, str(path)):
        return x509.load_pem_x509_certificate(content) if is_pem(content) else x509.load_der_x509_certificate(content)


def load_request(path: Path) -> x509.CertificateSigningRequest:
    """The certificate request in ``path``; nothing is said about whether to grant it.

    Raises:
        CredentialsError: it cannot be read or parsed.
    """
    content = read_file(path, "certificate request")
    with parsing("certificate request", str(path)):
        return x509.load_pem_x509_csr(content) if is_pem(content) else x509.load_der_x509_csr(content)


def load_key(path: Path, what: str = "private key") -> SigningKey:
    """The private key in ``path``, which must not be encrypted.

    Raises:
        CredentialsError: it cannot be read or parsed, is encrypted, or is of a kind that is not accepted.
    """
    content = read_file(path, what)
    load = serialization.load_pem_private_key if is_pem(content) else serialization.load_der_private_key
    with parsing(what, str(path)):
        try:
            key = load(content, password=None)
        except TypeError as exc:
            raise CredentialsError(f"the {what} {path} is encrypted: give one that is not") from exc
    return accept_private(key, str(path))


def is_pem(content: bytes) -> bool:
    """Whether there is a PEM block in ``content``."""
    return b"-----BEGIN " in content


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
