"""The certificate authority: one key that signs servers', clients' and intermediate CAs' certificates.

It lives in a directory, as ``ca.crt`` (to be given to everybody), ``ca.key`` (to be given to nobody) and
``index.jsonl`` (what it has issued). Nothing that it signed is returned before it is in the index, on the disk.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from api.errors import CredentialsError
from api.identity import Role
from pki.ca_files import CERTIFICATE_NAME, KEY_NAME, Chain, end_of, load_ca_key, load_chain
from pki.certificates import certificate_file, key_identifier, self_signed, sign_certificate
from pki.files import CA_KEY_MODE, write_files
from pki.hosts import parse_hosts
from pki.index import Entry, Index, owner_of
from pki.index_file import index_file, record
from pki.keys import KeyKind, SigningKey, VerifyingKey, new_key
from pki.leaf_files import IssuedFiles
from pki.profiles import (
    CA_LIFETIME,
    CA_NAME,
    CLIENT,
    SERVER,
    Extension,
    Profile,
    leaf_extensions,
    principal_subject,
    server_subject,
)
from pki.reading import Ask
from pki.requests import (
    Request,
    client_request,
    grant_client,
    grant_server,
    key_file,
    request_key,
    server_request,
)
from pki.validity import Validity, check_within, utc_text


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA whose key is at hand.

    All times are aware; ``now`` is the issuer's clock. A ``lifetime`` counts from ``now``; a certificate is valid
    from five minutes earlier, for peers whose clock is late. ``not_before`` and ``not_after`` overrule both.

    Attributes:
        directory: where it is.
        chain: its certificate, and those of the CAs above it.
        key: its private key.
    """

    directory: Path
    chain: Chain
    key: SigningKey = field(repr=False)

    @property
    def certificate(self) -> x509.Certificate:
        """Its own certificate."""
        return self.chain.certificate

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
        path_length: int = 0,
        kind: KeyKind = KeyKind.P256,
        passphrase: bytes | None = None,
        force: bool = False,
    ) -> Authority:
        """Make a new root CA in ``directory``, which is made if it is not there.

        With ``path_length`` 0 it signs leaves only, else so many levels of CAs may stand below it. Its key is
        encrypted if there is a passphrase. ``force`` replaces a CA and its index.

        Raises:
            IdentityError, ConfigError: the name, the period or the directory cannot be used.
            ExistingFilesError: there is a CA already and ``force`` is off.
        """
        validity = Validity.starting(now, lifetime, not_before=not_before, not_after=not_after)
        key = new_key(kind)
        certificate = self_signed(key, principal_subject(name), validity, path_length)
        authority = cls(directory, Chain(certificate), key)
        authority.write(passphrase, force=force)
        return authority

    def write(self, passphrase: bytes | None = None, *, force: bool = False) -> None:
        """Make the files of a CA that has issued nothing yet.

        Raises:
            ExistingFilesError: there is one already and ``force`` is off.
            ConfigError: the directory cannot be used.
        """
        files = [
            key_file(self.key_path, self.key, CA_KEY_MODE, passphrase),
            certificate_file(self.certificate_path, *self.chain.all),
            index_file(self.directory, Index(owner_of(self.certificate))),
        ]
        write_files(files, force=force)

    @classmethod
    def load(cls, directory: Path, ask: Ask | None = None) -> Authority:
        """The CA in ``directory``; ``ask`` gives its key's passphrase. Whether it has expired is asked when it signs.

        Raises:
            CredentialsError: it is missing, unreadable or damaged, is no CA, or the key is not the certificate's.
        """
        chain = load_chain(directory)
        return cls(directory, chain, load_ca_key(directory, chain, ask))

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
        kind: KeyKind = KeyKind.P256,
        passphrase: bytes | None = None,
        force: bool = False,
    ) -> IssuedFiles:
        """Make ``<stem>.key``, ``.csr`` and ``.crt`` in ``directory``, for a server that is reached as ``hosts``.

        Raises:
            ConfigError: a host, the stem, the period or the directory cannot be used, or a file is there already.
            CredentialsError: this CA has expired, or the certificate would outlive it.
        """
        files = IssuedFiles.named(directory, stem).check(force=force)
        key = new_key(kind)
        csr = server_request(key, parse_hosts(hosts))
        certificate = self.sign_server(
            Request(csr, str(files.csr)), now=now, lifetime=lifetime, not_before=not_before, not_after=not_after
        )
        write_files(files.contents(key, csr, (certificate, *self.chain.sent), passphrase), force=force)
        return files

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
        kind: KeyKind = KeyKind.P256,
        passphrase: bytes | None = None,
        force: bool = False,
    ) -> IssuedFiles:
        """Make ``<stem>.key``, ``.csr`` and ``.crt`` in ``directory``, for the principal ``name`` with ``roles``.

        The stem is the name unless given. No role at all is allowed: such a principal may do nothing.

        Raises:
            IdentityError: the name cannot be a principal.
            ConfigError: the name, the stem, the period or the directory cannot be used, or a file is there already.
            CredentialsError: this CA has expired, or the certificate would outlive it.
        """
        key = new_key(kind)
        csr = client_request(key, name)
        files = IssuedFiles.named(directory, name if stem is None else stem).check(force=force)
        certificate = self.sign_client(
            Request(csr, str(files.csr)), roles, now=now, lifetime=lifetime, not_before=not_before, not_after=not_after
        )
        write_files(files.contents(key, csr, (certificate, *self.chain.sent), passphrase), force=force)
        return files

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
        key = request_key(request)
        extensions = leaf_extensions(SERVER, key, self.key_identifier, granted)
        return self.sign(SERVER, server_subject(granted), key, validity, extensions, now)

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
        key = request_key(request)
        extensions = leaf_extensions(CLIENT, key, self.key_identifier)
        return self.sign(CLIENT, subject, key, validity, extensions, now)

    def sign(
        self,
        profile: Profile,
        subject: x509.Name,
        key: VerifyingKey,
        validity: Validity,
        extensions: Sequence[Extension],
        now: datetime,
    ) -> x509.Certificate:
        """Sign what was granted already, and put it into the index.

        Raises:
            CredentialsError: this CA has expired, the certificate would outlive it, or the index is damaged.
            ConfigError: the index cannot be locked or written.
        """
        self.check_time(now)
        end = end_of(self.chain)
        ca = f"the CA in {self.directory}" if end is self.certificate else "a CA above it"
        check_within(validity, end.not_valid_after_utc, now, ca)
        certificate = sign_certificate(self.key, self.certificate.subject, subject, key, validity, extensions)
        record(self.directory, self.certificate, Entry.of(certificate, profile.name))
        return certificate

    @property
    def key_identifier(self) -> x509.SubjectKeyIdentifier:
        """What certificates that it signs call its key."""
        return key_identifier(self.certificate)

    def check_time(self, now: datetime) -> None:
        """See that the CA is valid at ``now``.

        Raises:
            CredentialsError: it is not.
        """
        begin, end = self.certificate.not_valid_before_utc, self.certificate.not_valid_after_utc
        if now > end:
            raise CredentialsError(f"the CA in {self.directory} expired at {utc_text(end)}: make a new one")
        if now < begin:
            raise CredentialsError(
                f"the CA in {self.directory} is not valid before {utc_text(begin)}: check this machine's clock"
            )
