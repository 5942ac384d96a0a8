"""Certificates that the CA has signed, of subjects that no jobpki would make."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.pki import TestPki

EVIL = "\x1b]0;owned\x07\x1b[2J\u202eforged"
NAMES = {
    "control characters": "al\x07i\x00ce",
    "a line feed": 'alice\n{"event":"call","principal":"root"}',
    "escapes for the terminal": EVIL,
    "10 kB": "a" * 10_000,
    "10 kB of escapes": "\x1b[2J" * 2_500,
    "nothing": "",
    "a space in front": " alice",
    "the other direction": "\u202ealice",
}


def strange_certificate(pki: TestPki, directory: Path, names: list[str]) -> dict[str, Path]:
    """A writer of these names; what ``client_context`` takes."""
    now, key = datetime.now(UTC), ec.generate_private_key(ec.SECP256R1())
    ca = x509.load_pem_x509_certificate(pki.ca.read_bytes())
    ca_key = serialization.load_pem_private_key(pki.key("ca").read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    subject = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "jobd:writer"),
        *(x509.NameAttribute(NameOID.COMMON_NAME, name, _validate=False) for name in names),
    ]
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    files = {"certificate": directory / "evil.crt", "key": directory / "evil.key", "ca": pki.ca}
    files["certificate"].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files["key"].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    files["key"].chmod(0o600)
    return files
