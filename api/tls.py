"""The two TLS contexts: 1.3 only, a certificate on both sides, ALPN h2."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from api.errors import CredentialsError

ALPN: Final = ["h2"]

MAX_PASSPHRASE_BYTES: Final = 1023
"""What OpenSSL's buffer for it holds."""


def server_context(
    *,
    certificate: Path,
    key: Path,
    ca: Path,
    passphrase: Path | None = None,
    places: Mapping[Path, Path] = MappingProxyType({}),
) -> ssl.SSLContext:
    """The context of a server that lets in only clients with a certificate from ``ca``.

    OpenSSL checks a client certificate for the purpose clientAuth, so a server's certificate is refused here.

    Args:
        certificate: the server's, followed by those of the intermediate CAs above it, if there are any.
        key: its private key.
        ca: the root's certificate, or several.
        passphrase: a file whose first line opens the key, if that is encrypted.
        places: where what was read of one of these is now, for OpenSSL; messages name the file all the same.

    Raises:
        CredentialsError: a file is missing, unreadable or damaged, the key is not the certificate's, or is encrypted
            and the passphrase is missing or wrong.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    # A resumed session would bring back an identity that was judged some time ago: none is ever offered.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    return _finish(context, certificate, key, ca, passphrase, places)


def client_context(*, certificate: Path, key: Path, ca: Path, passphrase: Path | None = None) -> ssl.SSLContext:
    """The context of a client that trusts only servers with a certificate from ``ca`` for the host it asked for.

    The arguments are as for :func:`server_context`.

    Raises:
        CredentialsError: as for :func:`server_context`.
    """
    return _finish(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate, key, ca, passphrase)


def _finish(
    context: ssl.SSLContext,
    certificate: Path,
    key: Path,
    ca: Path,
    passphrase: Path | None,
    places: Mapping[Path, Path] = MappingProxyType({}),
) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(ALPN)
    for path, what in ((certificate, "certificate"), (key, "private key"), (ca, "CA certificate")):
        _check_readable(path, what, places.get(path, path))
    asked = False

    def ask() -> bytes:  # called only if the key is encrypted
        nonlocal asked
        asked = True
        return _read_passphrase(passphrase, key, places)

    try:
        context.load_cert_chain(places.get(certificate, certificate), places.get(key, key), password=ask)
    except ssl.SSLError as exc:
        if asked:
            raise CredentialsError(f"the passphrase in {passphrase} is not that of the private key {key}") from exc
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise CredentialsError(f"the private key {key} does not belong to the certificate {certificate}") from exc
        raise CredentialsError(
            f"{certificate} and {key} cannot be used: one of them is not a PEM certificate or key, or is damaged"
        ) from exc
    try:
        context.load_verify_locations(places.get(ca, ca))
    except ssl.SSLError as exc:
        raise CredentialsError(f"the CA file {ca} holds no PEM certificate that can be read") from exc
    return context


def _read_passphrase(path: Path | None, key: Path, places: Mapping[Path, Path]) -> bytes:
    if path is None:
        raise CredentialsError(f"the private key {key} is encrypted: give --key-passphrase-file, or a key that is not")
    try:
        with places.get(path, path).open("rb") as file:
            line = file.readline(MAX_PASSPHRASE_BYTES + 2).rstrip(b"\r\n")
    except OSError as exc:
        raise CredentialsError(f"cannot read the passphrase {path}: {exc.strerror}") from exc
    if not 1 <= len(line) <= MAX_PASSPHRASE_BYTES:
        raise CredentialsError(f"the first line of {path} is no passphrase: it has 1 to {MAX_PASSPHRASE_BYTES} bytes")
    return line


def _check_readable(path: Path, what: str, place: Path) -> None:
    try:
        with place.open("rb"):
            pass
    except OSError as exc:
        raise CredentialsError(f"cannot read the {what} {path}: {exc.strerror}") from exc
