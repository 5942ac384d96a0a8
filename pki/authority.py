"""The certificate authority: one key that signs servers' and clients' certificates, and nothing else.

It lives in a directory, as ``ca.crt`` (to be given to everybody) and ``ca.key`` (to be given to nobody).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

from api.errors import CredentialsError
from api.identity import Role
from pki.certificates import certificate_file, key_identifier, may_sign, self_signed, sign_certificate
from pki.files import CA_KEY_MODE, check_stem, check_targets, write_files
from pki.hosts import Host, parse_hosts
from pki.keys import SigningKey, VerifyingKey, accept_public, new_key, public_bytes
from pki.profiles import (
    CA_LIFETIME,
    CA_NAME,
    CLIENT,
    SERVER,
    Leaf,
    leaf_extensions,
    principal_subject,
    server_subject,
)
from pki.reading import load_certificate, load_key, parsing
from pki.requests import (
    Request,
    client_request,
    csr_file,
    grant_client,
    grant_server,
    key_file,
    request_key,
    server_request,
)
from pki.validity import Validity, check_within, utc_text

CERTIFICATE_NAME: Final = "ca.crt"
KEY_NAME: Final = "ca.key"


@dataclass(frozen=True, slots=True)
class IssuedFiles:
    """Where the three files of a new leaf are."""

    key: Path
    csr: Path
    certificate: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA whose key is at hand.

    All times are aware; ``now`` is the issuer's clock. A ``lifetime`` counts from ``now``; a certificate is valid
    from five minutes earlier, for peers whose clock is late. ``not_before`` and ``not_after`` overrule both.

    Attributes:
        directory: where it is.
        certificate: its certificate.
        key: its private key.
    """

    directory: Path
    certificate: x509.Certificate
    key: SigningKey = field(repr=False)

    @property
    def certificate_path(self) -> Path:
        """The file that servers and clients trust."""
        return self.directory / CERTIFICATE_NAME

    @property
    def key_path(self) -> Path:
        """The file that stays here."""
        return self.directory / KEY_NAME

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        now: datetime,
        name: str = CA_NAME,
        lifetime: timedelta = CA_LIFETIME,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        force: bool = False,
    ) -> Authority:
        """Make a new CA in ``directory``, which is made if it is not there.

        Raises:
            IdentityError, ConfigError: the name, the period or the directory cannot be used.
            ExistingFilesError: there is a CA already and ``force`` is off.
        """
        validity = Validity.starting(now, lifetime, not_before=not_before, not_after=not_after)
        key = new_key()
        authority = cls(directory, self_signed(key, principal_subject(name), validity), key)
        files = [
            key_file(authority.key_path, key, CA_KEY_MODE),
            certificate_file(authority.certificate_path, authority.certificate),
        ]
        write_files(files, force=force)
        return authority

    @classmethod
    def load(cls, directory: Path) -> Authority:
        """The CA in ``directory``. Whether it has expired is asked when it signs.

        Raises:
            CredentialsError: it is missing, unreadable or damaged, is no CA, or the key is not the certificate's.
        """
        if _is_missing(directory / CERTIFICATE_NAME):
            raise CredentialsError(
                f"there is no CA in {directory} ({CERTIFICATE_NAME} is missing): name its directory, or make one "
                f"with jobpki init"
            )
        certificate = load_certificate(directory / CERTIFICATE_NAME, "CA certificate")
        key = load_key(directory / KEY_NAME, "CA key")
        authority = cls(directory, certificate, key)
        _check_authority(authority)
        return authority

    def issue_server(
        self,
        directory: Path,
        hosts: Sequence[str],
        *,
        now: datetime,
        stem: str = "server",
        lifetime: timedelta = SERVER.lifetime,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        force: bool = False,
    ) -> IssuedFiles:
        """Make ``<stem>.key``, ``.csr`` and ``.crt`` in ``directory``, for a server that is reached as ``hosts``.

        Raises:
            ConfigError: a host, the stem, the period or the directory cannot be used, or a file is there already.
            CredentialsError: this CA has expired, or the certificate would outlive it.
        """
        files = _leaf_files(directory, stem, force=force)
        key = new_key()
        request = Request(server_request(key, parse_hosts(hosts)), str(files.csr))
        certificate = self.sign_server(request, now=now, lifetime=lifetime, not_before=not_before, not_after=not_after)
        return _write_leaf(files, key, request, certificate, force=force)

    def issue_client(
        self,
        directory: Path,
        name: str,
        roles: Collection[Role],
        *,
        now: datetime,
        stem: str | None = None,
        lifetime: timedelta = CLIENT.lifetime,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        force: bool = False,
    ) -> IssuedFiles:
        """Make ``<stem>.key``, ``.csr`` and ``.crt`` in ``directory``, for the principal ``name`` with ``roles``.

        The stem is the name unless given. No role at all is allowed: such a principal may do nothing.

        Raises:
            IdentityError: the name cannot be a principal.
            ConfigError: the name, the stem, the period or the directory cannot be used, or a file is there already.
            CredentialsError: this CA has expired, or the certificate would outlive it.
        """
        key = new_key()
        csr = client_request(key, name)
        files = _leaf_files(directory, name if stem is None else stem, force=force)
        request = Request(csr, str(files.csr))
        certificate = self.sign_client(
            request, roles, now=now, lifetime=lifetime, not_before=not_before, not_after=not_after
        )
        return _write_leaf(files, key, request, certificate, force=force)

    def sign_server(
        self,
        request: Request,
        hosts: Sequence[str] = (),
        *,
        now: datetime,
        lifetime: timedelta = SERVER.lifetime,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> x509.Certificate:
        """Sign a server's certificate for ``hosts``, or if there are none for those that the request names.

        Raises:
            RequestRefusedError: the request is damaged or asks for more.
            CredentialsError: its key is not accepted, this CA has expired, or the certificate would outlive it.
            ConfigError: a host or the period cannot be used.
        """
        granted = grant_server(request, parse_hosts(hosts))
        validity = Validity.starting(now, lifetime, not_before=not_before, not_after=not_after)
        return self._sign(SERVER, request_key(request), server_subject(granted), validity, now, granted)

    def sign_client(
        self,
        request: Request,
        roles: Collection[Role],
        *,
        now: datetime,
        name: str | None = None,
        lifetime: timedelta = CLIENT.lifetime,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> x509.Certificate:
        """Sign a client's certificate for the principal that the request names, with ``roles``.

        Raises:
            RequestRefusedError: the request is damaged, names nobody or (if given) not ``name``, or asks for more.
            CredentialsError: its key is not accepted, this CA has expired, or the certificate would outlive it.
            ConfigError: the name or the period cannot be used.
        """
        subject = principal_subject(grant_client(request, roles, name), roles)
        validity = Validity.starting(now, lifetime, not_before=not_before, not_after=not_after)
        return self._sign(CLIENT, request_key(request), subject, validity, now)

    def _sign(
        self,
        profile: Leaf,
        key: VerifyingKey,
        subject: x509.Name,
        validity: Validity,
        now: datetime,
        hosts: Sequence[Host] = (),
    ) -> x509.Certificate:
        self._check_time(now)
        check_within(validity, self.certificate.not_valid_after_utc, now, f"the CA in {self.directory}")
        extensions = leaf_extensions(profile, key, key_identifier(self.certificate), hosts)
        return sign_certificate(self.key, self.certificate.subject, subject, key, validity, extensions)

    def _check_time(self, now: datetime) -> None:
        begin, end = self.certificate.not_valid_before_utc, self.certificate.not_valid_after_utc
        if now > end:
            raise CredentialsError(f"the CA in {self.directory} expired at {utc_text(end)}: make a new one")
        if now < begin:
            raise CredentialsError(
                f"the CA in {self.directory} is not valid before {utc_text(begin)}: check this machine's clock"
            )


def _check_authority(authority: Authority) -> None:
    certificate, path = authority.certificate, authority.certificate_path
    with parsing("CA certificate", str(path)):
        public = accept_public(certificate.public_key(), str(path))
        if not may_sign(certificate):
            raise CredentialsError(f"{path} is not a CA's certificate (basicConstraints, keyUsage): it may not sign")
    if public_bytes(public) != public_bytes(authority.key.public_key()):
        raise CredentialsError(f"{authority.key_path} is not the key of {path}: put the right one in its place")


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # something is there; reading it will say what is wrong
    return False


def _leaf_files(directory: Path, stem: str, *, force: bool) -> IssuedFiles:
    check_stem(stem)
    files = IssuedFiles(directory / f"{stem}.key", directory / f"{stem}.csr", directory / f"{stem}.crt")
    check_targets([files.key, files.csr, files.certificate], force=force)
    return files


def _write_leaf(
    files: IssuedFiles, key: SigningKey, request: Request, certificate: x509.Certificate, *, force: bool
) -> IssuedFiles:
    contents = [
        key_file(files.key, key),
        csr_file(files.csr, request.csr),
        certificate_file(files.certificate, certificate),
    ]
    write_files(contents, force=force)
    return files
