"""Makes a key and a request, to be signed by a CA elsewhere. No CA is needed for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from pki.ca_files import KEY_NAME
from pki.files import CA_KEY_MODE, KEY_MODE, check_stem, check_targets, write_files
from pki.hosts import parse_hosts
from pki.keys import KeyKind, SigningKey, new_key
from pki.requests import ca_request, client_request, csr_file, key_file, server_request


@dataclass(frozen=True, slots=True)
class RequestFiles:
    """A private key and the request made with it."""

    key: Path
    csr: Path


def make_server_request(
    directory: Path,
    hosts: Sequence[str],
    *,
    stem: str = "server",
    kind: KeyKind = KeyKind.P256,
    passphrase: bytes | None = None,
    force: bool = False,
) -> RequestFiles:
    """Make a key, encrypted if there is a passphrase, and a request for a server in ``directory``.

    Raises:
        ConfigError: a host, the stem or the directory cannot be used, or a file is there already.
    """
    key = new_key(kind)
    csr = server_request(key, parse_hosts(hosts))
    return _write(_files(directory, stem), key, csr, KEY_MODE, passphrase, force=force)


def make_client_request(
    directory: Path,
    name: str,
    *,
    stem: str | None = None,
    kind: KeyKind = KeyKind.P256,
    passphrase: bytes | None = None,
    force: bool = False,
) -> RequestFiles:
    """Make a key, encrypted if there is a passphrase, and a request for the principal ``name`` in ``directory``.

    Raises:
        IdentityError: the name cannot be a principal.
        ConfigError: the name, the stem or the directory cannot be used, or a file is there already.
    """
    key = new_key(kind)
    csr = client_request(key, name)
    return _write(_files(directory, name if stem is None else stem), key, csr, KEY_MODE, passphrase, force=force)


def make_ca_request(
    directory: Path,
    name: str,
    *,
    kind: KeyKind = KeyKind.P256,
    passphrase: bytes | None = None,
    force: bool = False,
) -> RequestFiles:
    """Make an intermediate CA's key, ``ca.key``, and ``ca.csr`` in ``directory``.

    Raises:
        IdentityError, ConfigError: the name or the directory cannot be used, or a file is there already.
    """
    key = new_key(kind)
    files = RequestFiles(directory / KEY_NAME, directory / "ca.csr")
    return _write(files, key, ca_request(key, name), CA_KEY_MODE, passphrase, force=force)


def _files(directory: Path, stem: str) -> RequestFiles:
    return RequestFiles(directory / f"{check_stem(stem)}.key", directory / f"{stem}.csr")


def _write(
    files: RequestFiles,
    key: SigningKey,
    csr: x509.CertificateSigningRequest,
    mode: int,
    passphrase: bytes | None,
    *,
    force: bool,
) -> RequestFiles:
    check_targets([files.key, files.csr], force=force)
    write_files([key_file(files.key, key, mode, passphrase), csr_file(files.csr, csr)], force=force)
    return files
