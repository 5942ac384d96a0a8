"""What clients send cannot write to the operator's terminal, nor forge lines of the log."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from api.address import parse_address
from api.client import JobClient
from api.errors import InvalidArgumentError, UnauthenticatedError
from api.messages import QueryRequest
from api.methods import QUERY
from api.rpc.channel import open_channel
from api.tls import client_context
from jobd.logs import printable
from tests.support.daemon import jobd_program
from tests.support.patience import patient
from tests.support.pki import TestPki

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
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


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """The operator's: what it is written to, and what shows what came."""
    near, far = os.openpty()
    try:
        yield near, far
    finally:
        os.close(near)
        os.close(far)


def shown(near: int, until: str) -> str:
    """What stands on the terminal, up to a text."""
    seen = b""
    while until.encode() not in seen:
        seen += os.read(near, 65536)
    return seen.decode()


def certificate(pki: TestPki, directory: Path, names: list[str]) -> dict[str, Path]:
    """One that the CA has signed, with a subject that no jobpki would make."""
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


async def test_what_a_client_calls_its_jobs_is_escaped_on_the_terminal(pki: TestPki, tmp_path: Path) -> None:
    """The audit line shows it, and nothing but jobd's own colours is a control character in it."""
    with terminal() as (near, far), jobd_program(pki, tmp_path / "state", stderr=far) as jobd:
        with trio.fail_after(patient(20)):
            async with JobClient.connect(jobd.server, **pki.credentials("rita"), retry_for=0) as client:
                with pytest.raises(InvalidArgumentError):
                    await client.query(EVIL)
            text = COLOURS.sub("", await trio.to_thread.run_sync(shown, near, "INVALID_ARGUMENT"))
    [line] = [line for line in text.split("\r\n") if "INVALID_ARGUMENT" in line]
    assert r"\x1b]0;owned\x07\x1b[2J\u202eforged" in line
    assert line.isprintable()


@pytest.mark.parametrize(
    "names", [*([name] for name in NAMES.values()), ["alice", "alice"], []], ids=[*NAMES, "two", "no CN"]
)
@pytest.mark.filterwarnings("ignore:Attribute's length")  # by who makes the certificate, which is what we want
async def test_a_certificate_that_names_nobody_gets_in_nowhere(pki: TestPki, tmp_path: Path, names: list[str]) -> None:
    """UNAUTHENTICATED, though the CA has signed it; the answer and the log are clean and short, in both forms."""
    files = certificate(pki, tmp_path, names)
    with terminal() as (near, far), jobd_program(pki, tmp_path / "state", stderr=far) as jobd:
        with trio.fail_after(patient(20)):
            async with open_channel(*parse_address(jobd.server), client_context(**files)) as channel:
                with pytest.raises(UnauthenticatedError, match="names no principal") as caught:
                    await channel.unary(QUERY, QueryRequest("0000"))
            text = COLOURS.sub("", await trio.to_thread.run_sync(shown, near, "UNAUTHENTICATED"))
    assert caught.value.reason == "NO_PRINCIPAL"
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 500
    lines = text.split("\r\n")
    assert all(line.isprintable() and len(line) < 1000 for line in lines)
    assert sum("UNAUTHENTICATED" in line for line in lines) == 1


def test_a_traceback_keeps_its_lines() -> None:
    """Only its own."""
    event = {"event": "x", "exception": "a\n\x1bb\rc", "error": "a\nb", "count": 3}
    assert printable(structlog.get_logger(), "error", dict(event)) == {
        "event": "x",
        "exception": "a\n\\x1bb\\rc",
        "error": "a\\nb",
        "count": 3,
    }
