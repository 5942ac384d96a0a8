"""What the CA signs, and when it refuses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from api.errors import ConfigError, CredentialsError, IdentityError
from api.identity import Role, principal_of
from pki.authority import Authority
from pki.keys import KeyKind, key_kind, key_pem, new_key
from pki.reading import load_certificate, load_key
from pki.requests import Request, client_request


def test_ca_signs_leaves_only(ca: Authority) -> None:
    """The CA's certificate is a CA with no CA below it, and its key signs certificates and CRLs only."""
    extensions = ca.certificate.extensions
    basic = extensions.get_extension_for_class(x509.BasicConstraints)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.crl_sign) == (True, True, True)
    assert not usage.value.digital_signature


def test_server_profile(ca: Authority, tmp_path: Path, now: datetime) -> None:
    """A server's certificate has its hosts, serverAuth alone, a signing key, and 397 days."""
    files = ca.issue_server(tmp_path, ["localhost", "127.0.0.1", "::1"], now=now)
    certificate = load_certificate(files.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert [str(name.value) for name in names.value] == ["localhost", "127.0.0.1", "::1"]
    assert not names.critical
    assert certificate.subject.rfc4514_string() == "CN=localhost"
    _assert_leaf(certificate, ExtendedKeyUsageOID.SERVER_AUTH)
    assert certificate.not_valid_after_utc == now + timedelta(days=397)


def test_client_profile(ca: Authority, tmp_path: Path, now: datetime) -> None:
    """A client's certificate names its principal and roles, has clientAuth alone, and 90 days."""
    files = ca.issue_client(tmp_path, "alice", [Role.WRITER, Role.READER], now=now)
    certificate = load_certificate(files.certificate)
    assert principal_of(certificate).name == "alice"
    assert principal_of(certificate).roles == {Role.WRITER, Role.READER}
    _assert_leaf(certificate, ExtendedKeyUsageOID.CLIENT_AUTH)
    assert certificate.not_valid_after_utc == now + timedelta(days=90)


def _assert_leaf(certificate: x509.Certificate, purpose: x509.ObjectIdentifier) -> None:
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert (basic.critical, basic.value.ca) == (True, False)
    assert (usage.critical, usage.value.digital_signature, usage.value.key_cert_sign) == (True, True, False)
    assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]


def test_valid_five_minutes_early(ca: Authority, tmp_path: Path, now: datetime) -> None:
    """A new certificate is valid already for a peer whose clock is five minutes late."""
    files = ca.issue_client(tmp_path, "alice", [], now=now)
    assert load_certificate(files.certificate).not_valid_before_utc == now - timedelta(minutes=5)


def test_new_keys_are_p256(ca: Authority, tmp_path: Path, now: datetime) -> None:
    """Keys are made on the curve P-256."""
    key = load_key(ca.issue_client(tmp_path, "alice", [], now=now).key)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)


def test_serials_are_random_and_positive(ca: Authority, tmp_path: Path, now: datetime) -> None:
    """No two serials are the same, and all fit in 20 bytes as positive numbers."""
    serials = [
        load_certificate(ca.issue_client(tmp_path, f"c{i}", [], now=now).certificate).serial_number for i in range(3)
    ]
    assert len(set(serials)) == 3
    assert all(0 < serial < 1 << 159 for serial in serials)


def test_periods_can_be_given(ca: Authority, tmp_path: Path, now: datetime) -> None:
    """not_before and not_after overrule the lifetime, so that an expired certificate can be made."""
    begin, end = now - timedelta(days=9), now - timedelta(days=2)
    files = ca.issue_client(tmp_path, "alice", [], now=now, not_before=begin, not_after=end)
    certificate = load_certificate(files.certificate)
    assert (certificate.not_valid_before_utc, certificate.not_valid_after_utc) == (begin, end)


def test_period_must_have_a_length(ca: Authority, tmp_path: Path, now: datetime) -> None:
    """A period that ends before it begins is refused."""
    with pytest.raises(ConfigError, match="cannot be valid from"):
        ca.issue_client(tmp_path, "alice", [], now=now, not_after=now - timedelta(days=1))


def test_times_are_aware(ca: Authority, tmp_path: Path, now: datetime) -> None:
    """A time without a zone is a mistake of the caller."""
    with pytest.raises(ValueError, match="no time zone"):
        ca.issue_client(tmp_path, "alice", [], now=now, not_after=datetime(2026, 2, 1))  # noqa: DTZ001 # what is refused here


def test_no_leaf_outlives_its_ca(tmp_path: Path, now: datetime) -> None:
    """A certificate that would outlive its CA is refused, with the number of days that would fit, which does."""
    ca = Authority.create(tmp_path / "ca", now=now, lifetime=timedelta(days=30))
    with pytest.raises(CredentialsError, match="--days 30 would fit"):
        ca.issue_client(tmp_path, "alice", [], now=now)
    ca.issue_client(tmp_path, "alice", [], now=now, lifetime=timedelta(days=30))


def test_expired_ca_signs_nothing(tmp_path: Path, now: datetime) -> None:
    """An expired CA refuses; so does one that is not valid yet."""
    ca = Authority.create(tmp_path / "ca", now=now, lifetime=timedelta(days=1))
    with pytest.raises(CredentialsError, match="expired at 2026-01-02T12:00:00Z"):
        ca.issue_client(tmp_path, "alice", [], now=now + timedelta(days=2))
    with pytest.raises(CredentialsError, match="not valid before"):
        ca.issue_client(tmp_path, "alice", [], now=now - timedelta(days=2), lifetime=timedelta(days=1))
    assert not list(tmp_path.glob("alice.*"))


def test_load_gives_back_what_was_created(ca: Authority) -> None:
    """A CA that was loaded is the one that was made."""
    assert Authority.load(ca.directory).certificate == ca.certificate


def test_load_says_what_is_missing(tmp_path: Path, ca: Authority) -> None:
    """A missing directory, certificate or key is told by name."""
    with pytest.raises(CredentialsError, match=r"no CA in .*nowhere.*jobpki init"):
        Authority.load(tmp_path / "nowhere")
    ca.key_path.unlink()
    with pytest.raises(CredentialsError, match=r"cannot read the CA key .*ca\.key: No such file"):
        Authority.load(ca.directory)


def test_load_refuses_another_key(ca: Authority) -> None:
    """A key that is not the certificate's is refused."""
    ca.key_path.unlink()
    ca.key_path.write_bytes(key_pem(new_key()))
    with pytest.raises(CredentialsError, match=r"ca\.key is not the key of .*ca\.crt"):
        Authority.load(ca.directory)


def test_load_refuses_damage(ca: Authority) -> None:
    """A damaged certificate or key is refused by name."""
    ca.key_path.unlink()
    ca.key_path.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(CredentialsError, match=r"ca\.key holds no CA key that can be read"):
        Authority.load(ca.directory)
    ca.certificate_path.write_text("nothing")
    with pytest.raises(CredentialsError, match=r"ca\.crt holds no CA certificate that can be read"):
        Authority.load(ca.directory)


def test_load_refuses_a_leaf(ca: Authority, tmp_path: Path, now: datetime) -> None:
    """A leaf in the place of the CA's certificate is refused, its own key or not."""
    files = ca.issue_client(tmp_path, "alice", [], now=now)
    files.certificate.replace(ca.certificate_path)
    files.key.replace(ca.key_path)
    with pytest.raises(CredentialsError, match="not a CA's certificate"):
        Authority.load(ca.directory)


@pytest.mark.parametrize("name", ["", "a" * 65, " alice", "al\nice", "\x1b[31m"])
def test_bad_principals(ca: Authority, tmp_path: Path, now: datetime, name: str) -> None:
    """A name that cannot be a principal is refused, and nothing is made."""
    with pytest.raises(IdentityError):
        ca.issue_client(tmp_path, name, [Role.READER], now=now, stem="x")
    assert not list(tmp_path.glob("x.*"))


def test_names_are_limited_in_bytes(ca: Authority, tmp_path: Path, now: datetime) -> None:
    """A name of few characters and too many bytes is refused with its own message."""
    with pytest.raises(ConfigError, match="more than 64 bytes"):
        ca.issue_client(tmp_path, "é" * 33, [], now=now)


def test_long_first_host(ca: Authority, tmp_path: Path, now: datetime) -> None:
    """A host too long for a common name leaves the subject empty, and the alternative name critical."""
    host = ".".join(["a" * 30] * 4)
    certificate = load_certificate(ca.issue_server(tmp_path, [host], now=now).certificate)
    assert not certificate.subject.rdns
    assert certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical


def test_server_needs_a_host(ca: Authority, tmp_path: Path, now: datetime) -> None:
    """A server's certificate without any host is refused."""
    with pytest.raises(ConfigError, match="--host"):
        ca.issue_server(tmp_path, [], now=now)


def test_sign_in_process(ca: Authority, now: datetime) -> None:
    """A request made elsewhere is signed without files; the signer's roles are what is granted."""
    key = new_key()
    certificate = ca.sign_client(Request(client_request(key, "bob"), "bob's"), [Role.READER], now=now)
    assert certificate.public_key() == key.public_key()
    assert principal_of(certificate).roles == {Role.READER}
    certificate.verify_directly_issued_by(ca.certificate)


def test_real_clock_is_not_read(tmp_path: Path) -> None:
    """The clock is the caller's: a CA of the year 2001 is made in 2001."""
    then = datetime(2001, 1, 1, tzinfo=UTC)
    assert Authority.create(tmp_path / "ca", now=then).certificate.not_valid_after_utc.year == 2010


@pytest.mark.parametrize(
    ("kind", "described", "hashed"),
    [
        (KeyKind.P256, "ECDSA P-256", "sha256"),
        (KeyKind.P384, "ECDSA P-384", "sha384"),
        (KeyKind.ED25519, "Ed25519", ""),
    ],
)
def test_kinds_of_keys(tmp_path: Path, now: datetime, kind: KeyKind, described: str, hashed: str) -> None:
    """Keys are of the kind that was asked for; each signs with the hash that TLS 1.3 takes with it."""
    ca = Authority.create(tmp_path / "ca", now=now, kind=kind)
    files = ca.issue_client(tmp_path, "alice", [], now=now, kind=kind)
    certificate = load_certificate(files.certificate)
    assert (key_kind(ca.key), key_kind(load_key(files.key))) == (described, described)
    used = certificate.signature_hash_algorithm
    assert (used.name if used else "") == hashed
    certificate.verify_directly_issued_by(ca.certificate)
