"""Is the server's certificate one that clients can accept, and can a client come at all? Better said at the start,
or when the files are changed, than by every client."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID

from api.errors import CredentialsError


def certificates_in(content: bytes, path: Path) -> list[x509.Certificate]:
    """All certificates in a PEM file, at least one.

    Raises:
        CredentialsError: there is none, or one cannot be parsed.
    """
    try:
        found = x509.load_pem_x509_certificates(content)
        for each in found:  # they are parsed late
            _ = (each.subject.public_bytes(), each.issuer, each.extensions)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension) as exc:
        raise CredentialsError(f"{path} holds no PEM certificate, or one that is damaged") from exc
    return found


def check_server_certificates(certificates: Sequence[x509.Certificate], path: Path, now: datetime) -> None:
    """See that the server's certificate, and those of the CAs that go with it, are valid now, and it may be a server's.

    Raises:
        CredentialsError: they are not, or it may not.
    """
    for certificate in certificates:
        if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
            raise CredentialsError(
                f"the certificate {path} is valid {_period(certificate)}, and not now; have a new one signed"
            )
    try:
        usage = certificates[0].extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return  # no restriction
    if ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        raise CredentialsError(f"the certificate {path} was not made for a server (its usage lacks serverAuth)")


def check_cas(certificates: Sequence[x509.Certificate], path: Path, now: datetime) -> None:
    """See that one CA at least is valid now.

    Raises:
        CredentialsError: none is.
    """
    if not any(each.not_valid_before_utc <= now < each.not_valid_after_utc for each in certificates):
        raise CredentialsError(
            f"no CA in {path} is valid now (the first is {_period(certificates[0])}): nobody could get in"
        )


def _period(certificate: x509.Certificate) -> str:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return f"from {begin:%Y-%m-%dT%H:%M:%SZ} until {end:%Y-%m-%dT%H:%M:%SZ}"
