"""Renewing: the same subject, hosts and profile, for the same key or a new one."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from api.errors import ConfigError, CredentialsError
from api.identity import Role
from pki.authority import Authority
from pki.errors import ExistingFilesError, ForeignCertificateError, PassphraseError, RevokedError
from pki.index_file import read_index
from pki.keys import KeyKind, key_kind
from pki.leaf_files import IssuedFiles
from pki.reading import load_certificate, load_key
from pki.renewal import renew
from pki.revocation import Reason, by_name, revoke

from .conftest import Jobpki, Openssl

MONTH = timedelta(days=30)


@pytest.fixture
def alice(ca: Authority, now: datetime) -> IssuedFiles:
    """A client's files, good for a month."""
    return ca.issue_client(ca.directory, "alice", [Role.WRITER, Role.READER], now=now, lifetime=MONTH)


def without_key_and_dates(certificate: x509.Certificate) -> tuple[object, ...]:
    """What a renewal does not change."""
    extensions = [
        (extension.critical, extension.value)
        for extension in certificate.extensions
        if not isinstance(extension.value, x509.SubjectKeyIdentifier)
    ]
    return certificate.subject, certificate.issuer, extensions


def test_the_same_key(ca: Authority, alice: IssuedFiles, now: datetime) -> None:
    """Only the serial number and the dates differ; it is good for as long as the old one was; no key is needed."""
    old = load_certificate(alice.certificate)
    alice.key.unlink()
    later = now + timedelta(days=20)
    renewal = renew(ca, alice.certificate, now=later)
    new = load_certificate(alice.certificate)
    assert (renewal.certificate, renewal.key) == (alice.certificate, None)
    assert new.serial_number != old.serial_number
    assert new.public_key() == old.public_key()
    assert without_key_and_dates(new) == without_key_and_dates(old)
    assert new.not_valid_after_utc == later + MONTH
    new.verify_directly_issued_by(ca.certificate)


def test_a_server_keeps_its_hosts(ca: Authority, now: datetime) -> None:
    """The alternative names stay, in their order, one without a common name as well."""
    long_host = ".".join(["a" * 30] * 4)
    files = ca.issue_server(ca.directory, [long_host, "127.0.0.1", "::1"], now=now)
    old = load_certificate(files.certificate)
    renew(ca, files.certificate, now=now, with_new_key=True)
    new = load_certificate(files.certificate)
    assert without_key_and_dates(new) == without_key_and_dates(old)
    assert new.public_key() == load_key(files.key).public_key()


def test_a_new_key(ca: Authority, alice: IssuedFiles, now: datetime) -> None:
    """With a new key, key and request are replaced as well; the old key is gone."""
    old = load_certificate(alice.certificate)
    renewal = renew(ca, alice.certificate, now=now, with_new_key=True)
    new = load_certificate(alice.certificate)
    assert renewal.key == alice.key
    assert new.public_key() != old.public_key()
    assert new.public_key() == load_key(alice.key).public_key()
    assert without_key_and_dates(new) == without_key_and_dates(old)
    assert alice.key.stat().st_mode & 0o777 == 0o600
    assert x509.load_pem_x509_csr(alice.csr.read_bytes()).public_key() == new.public_key()


@pytest.mark.parametrize("kind", list(KeyKind))
def test_a_new_key_is_of_the_old_kind(ca: Authority, now: datetime, kind: KeyKind) -> None:
    """A new key is of the kind that the old one was, unless another is asked for."""
    files = ca.issue_client(ca.directory, "bob", [], now=now, kind=kind)
    before = key_kind(load_key(files.key))
    renew(ca, files.certificate, now=now, with_new_key=True)
    assert key_kind(load_key(files.key)) == before
    renew(ca, files.certificate, now=now, with_new_key=True, kind=KeyKind.P384)
    assert key_kind(load_key(files.key)) == "ECDSA P-384"


def test_beside_the_old_one(ca: Authority, alice: IssuedFiles, now: datetime) -> None:
    """With a name of its own the old files stay; a file of that name stays as well, without force."""
    before = alice.certificate.read_bytes(), alice.key.read_bytes()
    renewal = renew(ca, alice.certificate, now=now, stem="alice-2", with_new_key=True)
    assert renewal.certificate == ca.directory / "alice-2.crt"
    assert (alice.certificate.read_bytes(), alice.key.read_bytes()) == before
    with pytest.raises(ExistingFilesError):
        renew(ca, alice.certificate, now=now, stem="alice-2")


def test_somebody_else_s_key_is_not_replaced(ca: Authority, alice: IssuedFiles, now: datetime) -> None:
    """A key that is not the old certificate's, or cannot be seen to be, is replaced with force only."""
    bob = ca.issue_client(ca.directory, "bob", [], now=now)
    bob.key.replace(alice.key)
    before = alice.certificate.read_bytes()
    with pytest.raises(ExistingFilesError, match=r"alice\.key"):
        renew(ca, alice.certificate, now=now, with_new_key=True)
    assert alice.certificate.read_bytes() == before
    renew(ca, alice.certificate, now=now, with_new_key=True, force=True)
    assert load_key(alice.key).public_key() == load_certificate(alice.certificate).public_key()


def test_an_encrypted_key_is_followed_by_another(ca: Authority, now: datetime) -> None:
    """A new key in the place of an encrypted one is encrypted as well; with another passphrase, force is needed."""
    bob = ca.issue_client(ca.directory, "bob", [], now=now, passphrase=b"one")
    with pytest.raises(PassphraseError, match="the new key would not be"):
        renew(ca, bob.certificate, now=now, with_new_key=True)
    renew(ca, bob.certificate, now=now, with_new_key=True, passphrase=b"one")
    with pytest.raises(ExistingFilesError):
        renew(ca, bob.certificate, now=now, with_new_key=True, passphrase=b"two")
    renew(ca, bob.certificate, now=now, with_new_key=True, passphrase=b"two", force=True)
    assert load_key(bob.key, ask=lambda: b"two").public_key() == load_certificate(bob.certificate).public_key()


def test_a_file_with_its_key_is_not_replaced(ca: Authority, alice: IssuedFiles, now: datetime) -> None:
    """A key in the certificate's own file would be lost."""
    both = ca.directory / "both.pem"
    both.write_bytes(alice.certificate.read_bytes() + alice.key.read_bytes())
    with pytest.raises(ConfigError, match="which would be lost"):
        renew(ca, both, now=now)
    assert renew(ca, both, now=now, stem="apart").certificate == ca.directory / "apart.crt"


def test_both_are_in_the_index(ca: Authority, alice: IssuedFiles, now: datetime) -> None:
    """The new one is entered, and the old one stays good."""
    renew(ca, alice.certificate, now=now)
    entries = list(read_index(ca.directory, ca.certificate).entries.values())
    assert [(entry.name, entry.revoked) for entry in entries] == [("alice", None), ("alice", None)]


def test_an_expired_one_is_renewed(ca: Authority, alice: IssuedFiles, now: datetime) -> None:
    """Whoever comes late is served."""
    renew(ca, alice.certificate, now=now + 2 * MONTH)
    assert load_certificate(alice.certificate).not_valid_after_utc == now + 3 * MONTH


def test_a_revoked_one_is_not_renewed(ca: Authority, alice: IssuedFiles, now: datetime) -> None:
    """A renewal must not bring back what was taken away."""
    revoke(ca.directory, by_name(ca.directory, "alice", now), Reason.PRIVILEGE_WITHDRAWN, now)
    with pytest.raises(RevokedError, match="privilegeWithdrawn"):
        renew(ca, alice.certificate, now=now)


def test_what_others_issued_is_not_renewed(ca: Authority, now: datetime, tmp_path: Path) -> None:
    """A certificate of another CA, of the same name or not, gets nothing here."""
    other = Authority.create(tmp_path / "other", now=now)
    eve = other.issue_client(tmp_path, "eve", [Role.WRITER], now=now)
    before = eve.certificate.read_bytes()
    with pytest.raises(ForeignCertificateError):
        renew(ca, eve.certificate, now=now)
    assert eve.certificate.read_bytes() == before


def test_a_ca_is_not_renewed(ca: Authority, now: datetime) -> None:
    """A CA's certificate is changed over to, with time for both; that is no renewal."""
    with pytest.raises(CredentialsError, match="neither a server's nor a client's"):
        renew(ca, ca.certificate_path, now=now)


def test_a_certificate_of_no_profile_is_not_renewed(
    ca: Authority, now: datetime, tmp_path: Path, openssl: Openssl
) -> None:
    """What openssl signed with the CA's key, with other rights, is not signed again."""
    (tmp_path / "ext").write_text("extendedKeyUsage=serverAuth,clientAuth\n")
    openssl("req", "-new", "-nodes", "-newkey", "ed25519", "-keyout", "x.key", "-out", "x.csr", "-subj", "/CN=x")
    signing = ("-CA", ca.certificate_path, "-CAkey", ca.key_path, "-set_serial", "7", "-extfile", "ext", "-days", "9")
    openssl("x509", "-req", "-in", "x.csr", "-out", "x.crt", *signing)
    with pytest.raises(CredentialsError, match=r"\(other\)"):
        renew(ca, tmp_path / "x.crt", now=now)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_owner_stays(ca: Authority, alice: IssuedFiles, now: datetime) -> None:
    """The user who could read the old key can read the new one."""
    for path in (alice.key, alice.certificate):
        os.chown(path, 1234, 1234)
    renew(ca, alice.certificate, now=now, with_new_key=True)
    assert {(path.stat().st_uid, path.stat().st_gid) for path in (alice.key, alice.certificate)} == {(1234, 1234)}
    assert alice.key.stat().st_mode & 0o777 == 0o600


def test_renew_command(pki_dir: Path, jobpki: Jobpki) -> None:
    """renew says what it made; --revoke-old revokes the old one as superseded."""
    jobpki("client", pki_dir, "alice", "--role", "writer")
    first = json.loads(jobpki("show", pki_dir / "alice.crt", "--json").out)["serial"]
    renewed = json.loads(jobpki("renew", pki_dir, pki_dir / "alice.crt", "--json").out)
    assert (renewed["principal"], renewed["roles"], renewed["old_serial"]) == ("alice", ["writer"], first)
    again = json.loads(
        jobpki("renew", pki_dir, pki_dir / "alice.crt", "--new-key", "--revoke-old", "--days", "5", "--json").out
    )
    assert again["key"] == f"{pki_dir}/alice.key"
    assert again["next"].startswith("jobpki crl")
    states = [json.loads(line) for line in jobpki("list", pki_dir, "--json").out.splitlines()]
    assert [(entry["state"], entry["reason"]) for entry in states] == [
        ("valid", None),
        ("revoked", "superseded"),
        ("valid", None),
    ]
