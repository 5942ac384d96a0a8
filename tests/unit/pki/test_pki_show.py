"""What is said of a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from api.errors import CredentialsError
from api.identity import Role
from pki.authority import Authority
from pki.describe import describe_file
from pki.keys import new_key

Jobpki = Callable[..., tuple[int, str, str]]
Openssl = Callable[..., str]


def _certificate(path: Path, now: datetime, name: str, *extensions: x509.ExtensionType) -> Path:
    key = new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, now, now + timedelta(days=1))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path


def test_client(ca: Authority, tmp_path: Path, now: datetime) -> None:
    """Of a client's certificate: who, which roles, until when."""
    files = ca.issue_client(tmp_path, "alice", [Role.READER], now=now)
    facts = describe_file(files.certificate, now)
    assert (facts["what"], facts["profile"], facts["principal"], facts["roles"]) == (
        "certificate",
        "client",
        "alice",
        ["reader"],
    )
    assert (facts["state"], facts["days_left"], facts["valid_until"]) == ("valid", 90, "2026-04-01T12:00:00Z")
    assert (facts["issuer"], facts["key"]) == ("CN=jobd CA", "ECDSA P-256")
    assert "neither start nor stop" in str(facts["may"])


def test_server_and_ca(ca: Authority, tmp_path: Path, now: datetime) -> None:
    """Of a server's certificate: its hosts, and no principal. Of a CA's: that it signs."""
    facts = describe_file(ca.issue_server(tmp_path, ["localhost", "::1"], now=now).certificate, now)
    assert (facts["profile"], facts["hosts"]) == ("server", ["localhost", "::1"])
    assert "principal" not in facts
    assert describe_file(ca.certificate_path, now)["profile"] == "CA"


def test_no_role_may_nothing(ca: Authority, tmp_path: Path, now: datetime) -> None:
    """A client without a role may do nothing."""
    facts = describe_file(ca.issue_client(tmp_path, "alice", [], now=now).certificate, now)
    assert facts["roles"] == []
    assert "do nothing" in str(facts["may"])


def test_states(ca: Authority, tmp_path: Path, now: datetime) -> None:
    """A certificate is not yet valid, valid, or expired."""
    path = ca.issue_client(tmp_path, "alice", [], now=now).certificate
    assert describe_file(path, now - timedelta(days=1))["state"] == "not yet valid"
    late = describe_file(path, now + timedelta(days=93))
    assert (late["state"], late["days_left"]) == ("expired", -3)


def test_no_purpose_is_both(tmp_path: Path, now: datetime) -> None:
    """A certificate without extended key usage could be used on both sides, and that is said."""
    facts = describe_file(_certificate(tmp_path / "x.crt", now, "x"), now)
    assert facts["profile"] == "server and client"


def test_other_purpose_may_nothing(tmp_path: Path, now: datetime) -> None:
    """A certificate for something else may do nothing here."""
    usage = x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.2.3.4")])
    facts = describe_file(_certificate(tmp_path / "x.crt", now, "x", usage), now)
    assert (facts["profile"], facts["may"], facts["usage"]) == ("other", "nothing here", ["1.2.3.4"])


def test_request(ca: Authority, tmp_path: Path, now: datetime) -> None:
    """Of a request: what it asks for, and whether its own key signed it."""
    facts = describe_file(ca.issue_server(tmp_path, ["localhost"], now=now).csr, now)
    assert (facts["what"], facts["asks_for_hosts"], facts["signed_by_its_key"]) == (
        "certificate request",
        ["localhost"],
        True,
    )


def test_key_shows_only_its_kind(ca: Authority, tmp_path: Path, now: datetime) -> None:
    """Of a key only the kind is told."""
    files = ca.issue_client(tmp_path, "alice", [], now=now)
    assert describe_file(files.key, now) == {"what": "private key", "key": "ECDSA P-256"}


def test_openssl_keys(tmp_path: Path, now: datetime, openssl: Openssl) -> None:
    """Keys of openssl's older form, public keys and encrypted keys are told apart."""
    openssl("ecparam", "-name", "secp384r1", "-genkey", "-out", "ec.pem")
    openssl("ec", "-in", "ec.pem", "-pubout", "-out", "pub.pem")
    openssl("pkcs8", "-topk8", "-in", "ec.pem", "-passout", "pass:x", "-out", "enc.pem")
    assert describe_file(tmp_path / "ec.pem", now) == {"what": "private key", "key": "ECDSA P-384"}
    assert describe_file(tmp_path / "pub.pem", now) == {"what": "public key", "key": "ECDSA P-384"}
    assert "encrypted" in str(describe_file(tmp_path / "enc.pem", now)["key"])


def test_der(ca: Authority, tmp_path: Path, now: datetime) -> None:
    """DER is read as well, and says the same."""
    path = tmp_path / "ca.der"
    path.write_bytes(ca.certificate.public_bytes(serialization.Encoding.DER))
    assert describe_file(path, now) == describe_file(ca.certificate_path, now)


def test_bundle_is_not_passed_over(ca: Authority, tmp_path: Path, now: datetime) -> None:
    """That a file holds more than is shown, is said."""
    path = tmp_path / "bundle.pem"
    path.write_bytes(ca.certificate_path.read_bytes() * 3)
    assert describe_file(path, now)["not_shown"] == "2 more in this file"


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\x01", b"text", b"-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n", b"-----BEGIN X"],
)
def test_garbage(tmp_path: Path, now: datetime, content: bytes) -> None:
    """What is nothing of the kind is refused."""
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CredentialsError, match="holds no"):
        describe_file(tmp_path / "x", now)


def test_terminal_is_safe(tmp_path: Path, now: datetime, jobpki: Jobpki) -> None:
    """Control and direction characters in a certificate are printed as escapes, in text and in JSON."""
    path = _certificate(tmp_path / "x.crt", now, "a\x1b[31m\n\u202eb")
    for flags in ([], ["--json"]):
        code, out, _ = jobpki("show", path, *flags)
        assert code == 0
        assert not set("\x1b\u202e\r") & set(out)
    assert r"subject: CN=a\x1b[31m\n\u202eb" in jobpki("show", path)[1].splitlines()
    assert json.loads(jobpki("show", path, "--json")[1])["subject"] == "CN=a\x1b[31m\n\u202eb"
