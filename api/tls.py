"""The two TLS contexts: 1.3 only, a certificate on both sides, ALPN h2."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from api.errors import CredentialsError

ALPN: Final = ["h2"]


def server_context(*, certificate: Path, key: Path, ca: Path) -> ssl.SSLContext:
    """The context of a server that lets in only clients with a certificate from ``ca``.

    OpenSSL checks a client certificate for the purpose clientAuth, so a server's certificate is refused here.

    Raises:
        CredentialsError: a file is missing, unreadable or damaged, or the key is not the certificate's.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    # A resumed session would bring back an identity that was judged some time ago: none is ever offered.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    return _finish(context, certificate, key, ca)


def client_context(*, certificate: Path, key: Path, ca: Path) -> ssl.SSLContext:
    """The context of a client that trusts only servers with a certificate from ``ca`` for the host it asked for.

    Raises:
        CredentialsError: as for :func:`server_context`.
    """
    return _finish(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate, key, ca)


def _finish(context: ssl.SSLContext, certificate: Path, key: Path, ca: Path) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(ALPN)
    for path, what in ((certificate, "certificate"), (key, "private key"), (ca, "CA certificate")):
        _check_readable(path, what)
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise CredentialsError(f"the private key {key} does not belong to the certificate {certificate}") from exc
        raise CredentialsError(
            f"{certificate} and {key} cannot be used: one of them is not a PEM certificate or key, or is damaged"
        ) from exc
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as exc:
        raise CredentialsError(f"the CA file {ca} holds no PEM certificate that can be read") from exc
    return context


def _no_passphrase() -> str:
    raise CredentialsError("the private key is encrypted; give one that is not")


def _check_readable(path: Path, what: str) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as exc:
        raise CredentialsError(f"cannot read the {what} {path}: {exc.strerror}") from exc
