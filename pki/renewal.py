"""Renewing: a new certificate of the same subject, hosts and profile, for the same key or a new one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from api.errors import ConfigError, CredentialsError
from pki.authority import Authority
from pki.certificates import certificate_file
from pki.errors import PassphraseError, RevokedError
from pki.extensions import host_names
from pki.files import NewFile, check_targets, read_file, write_files
from pki.hosts import Host
from pki.index_file import read_index
from pki.keys import KeyKind, SigningKey, VerifyingKey, accept_public, kind_of, new_key, public_bytes
from pki.leaf_files import IssuedFiles
from pki.names import common_names
from pki.profiles import CLIENT, SERVER, Profile, leaf_extensions, profile_name
from pki.reading import load_certificate, load_key, parsing
from pki.requests import client_request, server_request
from pki.revocation import check_issued
from pki.validity import CLOCK_SKEW, Validity, utc_text


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate that can be renewed.

    Attributes:
        path: where it is.
        certificate: itself.
        profile: of which kind it is.
        key: its public key.
        hosts: a server's.
    """

    path: Path
    certificate: x509.Certificate
    profile: Profile
    key: VerifyingKey
    hosts: tuple[Host, ...]

    @classmethod
    def load(cls, authority: Authority, path: Path) -> Leaf:
        """The certificate in ``path``.

        Raises:
            CredentialsError: it cannot be read, is a CA's, or is of no profile that is issued here.
            ForeignCertificateError: ``authority`` has not issued it.
            RevokedError: it is revoked.
        """
        certificate = load_certificate(path)
        with parsing("certificate", str(path)):
            check_issued(authority.directory, authority.certificate, certificate, path)
            _check_in_force(authority, certificate, path)
            name = profile_name(certificate)
            profile = {SERVER.name: SERVER, CLIENT.name: CLIENT}.get(name)
            if profile is None:
                raise CredentialsError(
                    f"{path} is neither a server's nor a client's certificate ({name}): make a new one"
                )
            hosts = host_names(certificate.extensions, str(path))
            return cls(path, certificate, profile, accept_public(certificate.public_key(), str(path)), hosts)

    @property
    def lifetime(self) -> timedelta:
        """How long it was good from the day on which it was issued."""
        return self.certificate.not_valid_after_utc - self.certificate.not_valid_before_utc - CLOCK_SKEW

    def request(self, key: SigningKey) -> x509.CertificateSigningRequest:
        """What asks for the same with a new key."""
        if self.profile is SERVER:
            return server_request(key, self.hosts)
        return client_request(key, common_names(self.certificate.subject)[0])


@dataclass(frozen=True, slots=True)
class Renewal:
    """What was made.

    Attributes:
        old: what was renewed; its file may be gone.
        certificate: where the new certificate is.
        key: where its key is, if that is new.
    """

    old: Leaf
    certificate: Path
    key: Path | None


def renew(
    authority: Authority,
    path: Path,
    *,
    now: datetime,
    lifetime: timedelta | None = None,
    stem: str | None = None,
    with_new_key: bool = False,
    kind: KeyKind | None = None,
    passphrase: bytes | None = None,
    force: bool = False,
) -> Renewal:
    """Renew the certificate in ``path``, in its place or, with a ``stem``, beside it.

    In its place the new certificate needs no ``force``: what it replaces was read, and is what it renews. A new key
    does, unless the old one is seen to be that of the old certificate.

    Args:
        authority: who issued it, and does so again.
        path: the certificate.
        now: the time.
        lifetime: how long the new one is good, if not as long as the old.
        stem: the new files' name without its ending.
        with_new_key: make a new key, else the key stays, and is not needed here.
        kind: the kind of a new key, if not that of the old.
        passphrase: encrypts a new key.
        force: replace other files.

    Raises:
        CredentialsError: it cannot be renewed, or ``authority`` cannot sign.
        ExistingFilesError: a file is there already that is not the one to be renewed.
        ConfigError: the stem, the period or the directory cannot be used.
    """
    leaf = Leaf.load(authority, path)
    files = _files(path, stem)
    in_place = files.certificate == path
    _check_alone(path, files, in_place=in_place)
    replaced = {path} if in_place else set[Path]()
    if with_new_key and in_place:
        replaced |= _own_key(leaf, files, passphrase)
    wanted = [files.certificate] if not with_new_key else [files.key, files.csr, files.certificate]
    check_targets([target for target in wanted if target not in replaced], force=force)
    check_targets(wanted, force=True)  # whether one is a directory

    key = new_key(kind or kind_of(leaf.key)) if with_new_key else None
    certificate = _sign(authority, leaf, leaf.key if key is None else key.public_key(), now, lifetime)
    certificates = (certificate, *authority.chain.sent)
    if key is None:
        contents = [certificate_file(files.certificate, *certificates)]
    else:
        contents = files.contents(key, leaf.request(key), certificates, passphrase)
    write_files([_as_before(content) for content in contents], force=force or in_place)
    return Renewal(leaf, files.certificate, None if key is None else files.key)


def _sign(
    authority: Authority, leaf: Leaf, key: VerifyingKey, now: datetime, lifetime: timedelta | None
) -> x509.Certificate:
    validity = Validity.starting(now, leaf.lifetime if lifetime is None else lifetime)
    extensions = leaf_extensions(leaf.profile, key, authority.key_identifier, leaf.hosts)
    return authority.sign(leaf.profile, leaf.certificate.subject, key, validity, extensions, now)


def _check_in_force(authority: Authority, certificate: x509.Certificate, path: Path) -> None:
    entry = read_index(authority.directory, authority.certificate).entries.get(certificate.serial_number)
    if entry is not None and entry.revoked is not None:
        raise RevokedError(
            f"{path} was revoked at {utc_text(entry.revoked.at)} ({entry.revoked.reason}): it is not renewed; "
            f"issue another if its holder is to have one"
        )


def _files(path: Path, stem: str | None) -> IssuedFiles:
    if stem is not None:
        return IssuedFiles.named(path.parent, stem)
    return IssuedFiles(path.with_suffix(".key"), path.with_suffix(".csr"), path)


def _check_alone(path: Path, files: IssuedFiles, *, in_place: bool) -> None:
    if len({files.key, files.csr, files.certificate}) < 3:
        raise ConfigError(f"{path} has the ending of another kind of file: choose a name with --out STEM")
    if in_place and b"PRIVATE KEY-----" in read_file(path, "certificate"):
        raise ConfigError(f"{path} holds a private key as well, which would be lost: choose a name with --out STEM")


def _own_key(leaf: Leaf, files: IssuedFiles, passphrase: bytes | None) -> set[Path]:
    """The old key and request, if they are seen to be the certificate's own, and so may go with it.

    Raises:
        PassphraseError: the old key is encrypted, and the new one would not be.
    """
    try:
        key = load_key(files.key, ask=None if passphrase is None else lambda: passphrase)
    except PassphraseError as exc:
        if passphrase is None:
            raise PassphraseError(
                f"{files.key} is encrypted, and the new key would not be: say with which passphrase, or choose another "
                f"name with --out STEM"
            ) from exc
        return set()
    except CredentialsError:  # no key at all: whoever knows better says --force
        return set()
    return {files.key, files.csr} if public_bytes(key.public_key()) == public_bytes(leaf.key) else set()


def _as_before(file: NewFile) -> NewFile:
    """With the owner of what it replaces: a daemon that could read its key can read the new one."""
    try:
        status = file.path.lstat()
    except OSError:
        return file
    return replace(file, owner=(status.st_uid, status.st_gid))
