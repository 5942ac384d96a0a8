"""Intermediate CAs: how one is signed by the CA above it, here or on a machine that holds the root's key alone."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

from api.errors import CredentialsError
from pki.authority import Authority
from pki.ca_files import CERTIFICATE_NAME, KEY_NAME, Chain, load_ca_key, read_chain
from pki.certificates import certificate_file, is_self_issued, path_length
from pki.files import check_targets, write_files
from pki.index import Index, owner_of
from pki.index_file import index_file, index_path
from pki.keys import KeyKind, new_key
from pki.profiles import INTERMEDIATE, INTERMEDIATE_NAME, ca_extensions, principal_subject
from pki.reading import Ask
from pki.requests import Request, ca_request, grant_ca, request_key
from pki.validity import Validity

MAX_PATH_LENGTH: Final = 8
"""OpenSSL follows a hundred; nobody needs eight."""


def sign_ca(
    parent: Authority,
    request: Request,
    *,
    now: datetime,
    length: int = 0,
    lifetime: timedelta = INTERMEDIATE.lifetime,
) -> x509.Certificate:
    """Sign the certificate of a CA that may sign leaves, and with a ``length`` so many levels of CAs below it.

    Raises:
        RequestRefusedError: the request is damaged, names nobody, or asks for more.
        CredentialsError: its key is not accepted, ``parent`` may not sign such a CA or has expired, or the
            certificate would outlive it.
        ConfigError: the name or the period cannot be used.
    """
    subject = principal_subject(grant_ca(request))
    _check_below(parent, subject, length)
    key = request_key(request)
    extensions = ca_extensions(key, parent.key_identifier, length)
    return parent.sign(INTERMEDIATE, subject, key, Validity.starting(now, lifetime), extensions, now)


def create_intermediate(
    parent: Authority,
    directory: Path,
    *,
    now: datetime,
    name: str = INTERMEDIATE_NAME,
    length: int = 0,
    lifetime: timedelta = INTERMEDIATE.lifetime,
    kind: KeyKind = KeyKind.P256,
    passphrase: bytes | None = None,
    force: bool = False,
) -> Authority:
    """Make a CA in ``directory`` that is signed by ``parent``, whose key is at hand.

    Raises:
        IdentityError, ConfigError: the name, the period or the directory cannot be used.
        ExistingFilesError: there is a CA already and ``force`` is off.
        CredentialsError: ``parent`` cannot sign it.
    """
    check_targets([directory / KEY_NAME, directory / CERTIFICATE_NAME, index_path(directory)], force=force)
    key = new_key(kind)
    request = Request(ca_request(key, name), "the request")
    certificate = sign_ca(parent, request, now=now, length=length, lifetime=lifetime)
    authority = Authority(directory, Chain(certificate, parent.chain.all), key)
    authority.write(passphrase, force=force)
    return authority


def complete_intermediate(directory: Path, source: Path, ask: Ask | None = None, *, force: bool = False) -> Chain:
    """Make a CA of the key in ``directory`` and the certificate for it that was signed elsewhere, in ``source``.

    ``source`` has the certificates of the CAs above it as well, up to the root, as :mod:`pki.ca_files` says.

    Raises:
        ExistingFilesError: there is a CA already and ``force`` is off.
        CredentialsError: the certificate is not that key's, or the chain is not whole, or not in order.
        PassphraseError: the key is encrypted and there is no passphrase, or a wrong one.
    """
    check_targets([directory / CERTIFICATE_NAME, index_path(directory)], force=force)
    chain = read_chain(source)
    load_ca_key(directory, chain, ask, source)
    if not is_self_issued(chain.all[-1]):
        raise CredentialsError(
            f"{source} does not end with a root's certificate: add those of the CAs above it, the root's last"
        )
    files = [
        certificate_file(directory / CERTIFICATE_NAME, *chain.all),
        index_file(directory, Index(owner_of(chain.certificate))),
    ]
    write_files(files, force=force)
    return chain


def _check_below(parent: Authority, subject: x509.Name, length: int) -> None:
    limit = path_length(parent.certificate)
    if limit == 0:
        raise CredentialsError(
            f"the CA in {parent.directory} signs servers and clients only (its path length is 0): one that signs CAs "
            f"is made with jobpki init --path-length 1"
        )
    if limit is not None and length >= limit:
        raise CredentialsError(f"the CA in {parent.directory} signs CAs of a path length of at most {limit - 1}")
    if subject in [certificate.subject for certificate in parent.chain.all]:
        raise CredentialsError(
            f"an intermediate CA cannot have the name of one above it ({subject.rfc4514_string()}): choose another"
        )
