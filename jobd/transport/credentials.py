"""Is the server's certificate one that clients can accept? Better said at the start than by every client."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from api.errors import CredentialsError


def check_server_certificate(path: Path, now: datetime) -> None:
    """See that the certificate is valid now, and may be a server's.

    Raises:
        CredentialsError: it is not, or may not.
    """
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise CredentialsError(
            f"the certificate {path} is valid from {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ} "
            f"until {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}, and not now; have a new one signed"
        )
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return  # no restriction
    if ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        raise CredentialsError(f"the certificate {path} was not made for a server (its usage lacks serverAuth)")
