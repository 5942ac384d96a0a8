"""OpenSSL's own judgement of the certificates, in its strict reading of RFC 5280."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from api.identity import Role
from pki.authority import Authority, IssuedFiles
from pki.requests import Request

LONG_HOST = ".".join(["a" * 30] * 4)


@pytest.fixture
def now() -> datetime:
    """The real time: openssl judges by it."""
    return datetime.now(UTC)


@pytest.fixture
def ca(tmp_path: Path, now: datetime) -> Authority:
    """A CA that is valid today."""
    return Authority.create(tmp_path / "ca", now=now)


@pytest.fixture
def server(ca: Authority, now: datetime) -> IssuedFiles:
    """A server's files."""
    return ca.issue_server(ca.directory, ["localhost", "127.0.0.1", "::1"], now=now)


@pytest.fixture
def client(ca: Authority, now: datetime) -> IssuedFiles:
    """A client's files."""
    return ca.issue_client(ca.directory, "alice", [Role.WRITER], now=now)


def _accepts(ca: Authority, certificate: Path, purpose: str, *flags: str) -> bool:
    command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", str(ca.certificate_path), *flags]
    return subprocess.run([*command, str(certificate)], capture_output=True, check=False).returncode == 0


def test_server_is_a_server_only(ca: Authority, server: IssuedFiles) -> None:
    """A server's certificate is accepted as such, for its hosts, and refused as a client's."""
    assert _accepts(ca, server.certificate, "sslserver")
    assert _accepts(ca, server.certificate, "sslserver", "-verify_hostname", "localhost")
    assert _accepts(ca, server.certificate, "sslserver", "-verify_ip", "127.0.0.1")
    assert _accepts(ca, server.certificate, "sslserver", "-verify_ip", "::1")
    assert not _accepts(ca, server.certificate, "sslserver", "-verify_hostname", "example.com")
    assert not _accepts(ca, server.certificate, "sslclient")


def test_client_is_a_client_only(ca: Authority, client: IssuedFiles) -> None:
    """A client's certificate is accepted as such, and refused as a server's."""
    assert _accepts(ca, client.certificate, "sslclient")
    assert not _accepts(ca, client.certificate, "sslserver")


def test_empty_subject(ca: Authority, now: datetime) -> None:
    """A server whose only host is too long for a common name is accepted without one."""
    files = ca.issue_server(ca.directory, [LONG_HOST], now=now)
    assert _accepts(ca, files.certificate, "sslserver", "-verify_hostname", LONG_HOST)


def test_expired(ca: Authority, now: datetime) -> None:
    """A certificate that was made expired is refused."""
    begin, end = now - timedelta(days=3), now - timedelta(days=2)
    files = ca.issue_client(ca.directory, "late", [], now=now, not_before=begin, not_after=end)
    assert not _accepts(ca, files.certificate, "sslclient")


def test_another_ca_of_the_same_name(tmp_path: Path, client: IssuedFiles, now: datetime) -> None:
    """A CA of the same name with another key does not vouch for it."""
    assert not _accepts(Authority.create(tmp_path / "other", now=now), client.certificate, "sslclient")


def test_leaf_cannot_sign(ca: Authority, client: IssuedFiles, tmp_path: Path, now: datetime) -> None:
    """What a client signs with its own key is refused, though the chain is whole."""
    request = tmp_path / "forged.csr"
    forged = tmp_path / "forged.crt"
    key = tmp_path / "forged.key"
    _openssl("req", "-new", "-nodes", "-newkey", "ed25519", "-keyout", key, "-out", request, "-subj", "/CN=forged")
    _openssl("x509", "-req", "-in", request, "-CA", client.certificate, "-CAkey", client.key, "-out", forged)
    assert not _accepts(ca, forged, "sslclient", "-untrusted", str(client.certificate))


@pytest.mark.parametrize("key", ["ed25519", "rsa:2048"])
def test_openssl_request(ca: Authority, tmp_path: Path, now: datetime, key: str) -> None:
    """A certificate for a request of openssl's is accepted for its purpose."""
    csr, out = tmp_path / "bob.csr", tmp_path / "bob.crt"
    _openssl("req", "-new", "-nodes", "-newkey", key, "-keyout", tmp_path / "k", "-out", csr, "-subj", "/CN=bob")
    certificate = ca.sign_client(Request.load(csr), [Role.READER], now=now)
    out.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    assert _accepts(ca, out, "sslclient")
    assert not _accepts(ca, out, "sslserver")


@pytest.mark.parametrize("key", ["ed25519", "rsa:2048"])
def test_openssl_ca(tmp_path: Path, key: str) -> None:
    """A CA that openssl made issues certificates that openssl accepts."""
    pki = tmp_path / "pki"
    pki.mkdir()
    _openssl(
        *("req", "-x509", "-nodes", "-newkey", key, "-keyout", pki / "ca.key", "-out", pki / "ca.crt"),
        *("-subj", "/CN=other", "-days", "3000", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    ca = Authority.load(pki)
    files = ca.issue_client(pki, "alice", [Role.READER], now=datetime.now(UTC))
    assert _accepts(ca, files.certificate, "sslclient")


def _openssl(*argv: str | Path) -> None:
    subprocess.run(["openssl", *argv], check=True, capture_output=True)
