"""Files that strangers bring to jobpki: whatever is in them, there is an answer or an error, and no right too many."""

from __future__ import annotations

import base64
import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.errors import JobdError
from api.identity import Role, principal_of
from pki.authority import Authority
from pki.ca_files import read_chain
from pki.crl import make_crl
from pki.describe import describe_file
from pki.expiry import expiring_in
from pki.intermediate import create_intermediate, sign_ca
from pki.keys import key_pem, new_key
from pki.profiles import profile_name
from pki.reading import load_crl, load_key, load_request
from pki.renewal import Leaf
from pki.requests import Request, ca_request
from pki.revocation import Reason, by_file, by_name, revoke

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Bench:
    """A CA, and good files of every kind to begin from."""

    ca: Authority
    files: list[bytes]
    file: Path
    """Where what is tried stands."""


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """Made once."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        ca = Authority.create(home / "ca", now=NOW, path_length=1)
        sub = create_intermediate(ca, home / "sub", now=NOW)
        server = sub.issue_server(home, ["localhost", "::1"], now=NOW)
        alice = ca.issue_client(home, "alice", [Role.READER], now=NOW)
        bob = ca.issue_client(home, "bob", [], now=NOW)
        revoke(ca.directory, by_name(ca.directory, "bob", NOW), Reason.KEY_COMPROMISE, NOW)
        make_crl(ca, now=NOW)
        paths = (server.certificate, alice.certificate, bob.csr, server.csr, alice.key, ca.directory / "ca.crl")
        made = [ca_request(new_key(), "x").public_bytes(Encoding.PEM), key_pem(new_key(), b"x")]
        yield Bench(ca, [*(path.read_bytes() for path in paths), *made], home / "tried")


@st.composite
def bent(draw: st.DrawFn, good: bytes) -> bytes:
    """A file with a few bytes of its DER changed, cut or doubled; as DER or PEM."""
    head, _, rest = good.partition(b"\n")
    body, _, _ = rest.partition(b"-----END")
    der = bytearray(base64.b64decode(body))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(der) - 1))
        match draw(st.sampled_from(["change", "cut", "double"])):
            case "change":
                der[place] = draw(st.integers(0, 255))
            case "cut":
                del der[place : place + draw(st.integers(1, 8))]
            case _:
                der[place:place] = der[place : place + draw(st.integers(1, 8))]
        if not der:
            return b""
    if draw(st.booleans()):
        return bytes(der)
    return head + b"\n" + base64.encodebytes(bytes(der)) + head.replace(b"BEGIN", b"END") + b"\n"


READERS: list[Callable[[Bench], Any]] = [
    lambda bench: describe_file(bench.file, NOW),
    lambda bench: list(expiring_in(bench.file, timedelta(days=9999), NOW)),
    lambda bench: by_file(bench.ca.directory, bench.ca.certificate, bench.file),
    lambda bench: Leaf.load(bench.ca, bench.file),
    lambda bench: read_chain(bench.file),
    lambda bench: load_crl(bench.file),
    lambda bench: load_key(bench.file, ask=lambda: b"x"),
    lambda bench: bench.ca.sign_client(Request(load_request(bench.file), "it"), [Role.READER], now=NOW),
    lambda bench: bench.ca.sign_server(Request(load_request(bench.file), "it"), now=NOW),
    lambda bench: sign_ca(bench.ca, Request(load_request(bench.file), "it"), now=NOW),
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_is_in_a_file(bench: Bench, data: st.DataObject) -> None:
    """Bent certificates, requests, lists and keys are read, or refused with an error that a person is told."""
    bench.file.write_bytes(data.draw(bent(data.draw(st.sampled_from(bench.files)))))
    for reader in READERS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as the program does
            with contextlib.suppress(JobdError):
                reader(bench)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_what_is_bent_is_not_ours(bench: Bench, data: st.DataObject) -> None:
    """A certificate of ours that was changed in any way is never revoked or renewed as ours."""
    good = bench.files[1]
    content = data.draw(bent(good))
    bench.file.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            leaf = Leaf.load(bench.ca, bench.file)
        except JobdError:
            return
    assert leaf.certificate == x509.load_pem_x509_certificate(good)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(
            [
                (x509.BasicConstraints(ca=True, path_length=None), True),
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), False),
                (x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]), False),
                (x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), False),
                (x509.SubjectAlternativeName([x509.DNSName("localhost")]), False),
                (x509.SubjectAlternativeName([x509.DNSName("*.example.com")]), False),
                (x509.SubjectAlternativeName([x509.RFC822Name("a@example.com")]), False),
                (x509.InhibitAnyPolicy(0), True),
            ]
        ),
        max_size=4,
        unique_by=lambda extension: type(extension[0]),
    ),
    st.sampled_from(["alice", "jobd:writer", "localhost", "x" * 64]),
    st.lists(st.sampled_from(["jobd:writer", "jobd:reader", "jobd:admin", "jobd:", "acme"]), max_size=3),
)
def test_a_request_gets_no_right_too_many(
    bench: Bench, extensions: list[tuple[x509.ExtensionType, bool]], name: str, organisations: list[str]
) -> None:
    """Whatever is asked for, what is signed as a reader's is a client's with the role reader, and nothing else."""
    oid = x509.oid.NameOID
    subject = [x509.NameAttribute(oid.ORGANIZATION_NAME, text) for text in organisations]
    builder = x509.CertificateSigningRequestBuilder(x509.Name([*subject, x509.NameAttribute(oid.COMMON_NAME, name)]))
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    key = new_key()
    request = Request(builder.sign(key, hashes.SHA256()), "it")
    try:
        certificate = bench.ca.sign_client(request, [Role.READER], now=NOW)
    except JobdError:
        return
    assert profile_name(certificate) == "client"
    principal = principal_of(certificate)
    assert (principal.name, principal.roles) == (name, {Role.READER})
    assert not any(isinstance(extension.value, x509.SubjectAlternativeName) for extension in certificate.extensions)


def test_good_files_are_read(bench: Bench) -> None:
    """The bench is not broken: each good file is described."""
    for content in bench.files:
        bench.file.write_bytes(content)
        assert describe_file(bench.file, NOW)["what"]
