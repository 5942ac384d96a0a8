"""Intermediate CAs: signed here or far from the root's key, with chains in the right order."""

from __future__ import annotations

import itertools
import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from api.errors import CredentialsError
from api.identity import Role
from pki.authority import Authority
from pki.ca_files import has_issued, load_chain
from pki.certificates import path_length
from pki.errors import ExistingFilesError, RequestRefusedError
from pki.index_file import read_index
from pki.intermediate import complete_intermediate, create_intermediate, sign_ca
from pki.reading import load_certificates
from pki.request_files import make_ca_request
from pki.requests import Request

from .conftest import Jobpki, Openssl


@pytest.fixture
def root(tmp_path: Path, now: datetime) -> Authority:
    """A root that may sign two levels of CAs."""
    return Authority.create(tmp_path / "root", now=now, name="root", path_length=2)


@pytest.fixture
def middle(root: Authority, tmp_path: Path, now: datetime) -> Authority:
    """A CA below the root, which may sign one more level."""
    return create_intermediate(root, tmp_path / "middle", now=now, name="middle", length=1)


@pytest.fixture
def low(middle: Authority, tmp_path: Path, now: datetime) -> Authority:
    """A CA below that, which signs leaves."""
    return create_intermediate(middle, tmp_path / "low", now=now, name="low")


def names(path: Path) -> list[str]:
    """The subjects in a file, in order."""
    return [certificate.subject.rfc4514_string() for certificate in load_certificates(path)]


def test_chains_are_in_order(low: Authority, now: datetime) -> None:
    """A CA's file goes from itself to the root; a leaf's from itself to the CA below the root (RFC 8446, 4.4.2)."""
    files = low.issue_client(low.directory, "alice", [Role.READER], now=now)
    assert names(low.certificate_path) == ["CN=low", "CN=middle", "CN=root"]
    assert names(files.certificate) == ["CN=alice,O=jobd:reader", "CN=low", "CN=middle"]
    chain = [*load_certificates(files.certificate), low.chain.all[-1]]
    assert all(has_issued(issuer, issued) for issued, issuer in itertools.pairwise(chain))


def test_a_root_s_leaf_stands_alone(root: Authority, now: datetime) -> None:
    """Without an intermediate CA there is nothing to send but the certificate."""
    assert names(root.issue_client(root.directory, "alice", [], now=now).certificate) == ["CN=alice"]


def test_path_lengths(root: Authority, middle: Authority, low: Authority) -> None:
    """Each CA says how many may stand below it."""
    assert [path_length(ca.certificate) for ca in (root, middle, low)] == [2, 1, 0]


def test_each_keeps_its_own_index(root: Authority, middle: Authority, low: Authority) -> None:
    """An intermediate CA is in the index of the one that signed it, so that it can be revoked there."""
    indexes = [read_index(ca.directory, ca.certificate).entries for ca in (root, middle, low)]
    assert [[(entry.name, entry.profile) for entry in index.values()] for index in indexes] == [
        [("middle", "ca")],
        [("low", "ca")],
        [],
    ]


def test_a_ca_that_signs_leaves_only_signs_no_ca(low: Authority, tmp_path: Path, now: datetime) -> None:
    """Path length 0 is said before anything is made: peers would refuse the chain."""
    with pytest.raises(CredentialsError, match="its path length is 0"):
        create_intermediate(low, tmp_path / "lower", now=now, name="lower")
    assert not (tmp_path / "lower").exists()


def test_no_longer_path_than_above(middle: Authority, tmp_path: Path, now: datetime) -> None:
    """A CA cannot promise more levels than it has."""
    with pytest.raises(CredentialsError, match="of a path length of at most 0"):
        create_intermediate(middle, tmp_path / "x", now=now, name="x", length=1)


def test_no_name_twice_in_a_chain(middle: Authority, tmp_path: Path, now: datetime) -> None:
    """A CA that has the name of one above it would look like a root."""
    for name in ("root", "middle"):
        with pytest.raises(CredentialsError, match="cannot have the name of one above it"):
            create_intermediate(middle, tmp_path / "x", now=now, name=name)


def test_nothing_outlives_a_ca_above(tmp_path: Path, now: datetime) -> None:
    """Neither a CA nor a leaf is good for longer than any certificate above it."""
    root = Authority.create(tmp_path / "root", now=now, path_length=1, lifetime=timedelta(days=30))
    with pytest.raises(CredentialsError, match="--days 30 would fit"):
        create_intermediate(root, tmp_path / "sub", now=now)
    sub = create_intermediate(root, tmp_path / "sub", now=now, lifetime=timedelta(days=30))
    with pytest.raises(CredentialsError, match="--days 30 would fit"):
        sub.issue_client(tmp_path, "alice", [], now=now)


def test_far_from_the_root_s_key(root: Authority, tmp_path: Path, now: datetime) -> None:
    """The request goes to the root, the certificate comes back; the two keys never meet."""
    there = tmp_path / "there"
    made = make_ca_request(there, "far")
    certificate = sign_ca(root, Request.load(made.csr), now=now)
    source = tmp_path / "far.crt"
    source.write_bytes(b"".join(map(pem, (certificate, *root.chain.all))))
    complete_intermediate(there, source)
    far = Authority.load(there)
    assert names(far.issue_client(there, "alice", [], now=now).certificate) == ["CN=alice", "CN=far"]
    assert (there / "ca.key").stat().st_mode & 0o777 == 0o400
    with pytest.raises(ExistingFilesError):
        complete_intermediate(there, source)


def test_what_does_not_fit_is_not_taken(root: Authority, middle: Authority, tmp_path: Path, now: datetime) -> None:
    """Another key's certificate, a chain out of order or without its root, a leaf: none becomes a CA."""
    there = tmp_path / "there"
    certificate = sign_ca(root, Request.load(make_ca_request(there, "far").csr), now=now)
    leaf = root.issue_client(tmp_path, "alice", [], now=now).certificate
    misplaced = pem(certificate) + pem(middle.certificate) + pem(root.certificate)
    wrong = {
        "is not the key of": b"".join(map(pem, middle.chain.all)),
        "does not end with a root's certificate": pem(certificate),
        "certificate 2 has not issued certificate 1": misplaced,
        "is not a CA's certificate": leaf.read_bytes(),
        "holds no CA certificate": b"nothing",
    }
    for message, content in wrong.items():
        (tmp_path / "x.crt").write_bytes(content)
        with pytest.raises(CredentialsError, match=message):
            complete_intermediate(there, tmp_path / "x.crt")
    assert not (there / "ca.crt").exists()


def test_a_chain_out_of_order_signs_nothing(low: Authority) -> None:
    """A CA's own file is checked each time it is loaded."""
    first, second, third = low.chain.all
    low.certificate_path.write_bytes(pem(first) + pem(third) + pem(second))
    with pytest.raises(CredentialsError, match="certificate 2 has not issued certificate 1"):
        Authority.load(low.directory)


def test_another_root_may_follow_a_root(root: Authority, tmp_path: Path, now: datetime) -> None:
    """While one CA is changed for another, both may be in the file that peers trust."""
    other = Authority.create(tmp_path / "other", now=now, name="other")
    root.certificate_path.write_bytes(pem(root.certificate) + pem(other.certificate))
    assert load_chain(root.directory).all == (root.certificate,)


@pytest.mark.parametrize(
    ("extension", "message"),
    [
        ("extendedKeyUsage=serverAuth", "for the extended key usage serverAuth"),
        ("keyUsage=digitalSignature,keyCertSign", "for the key usage digitalSignature"),
        ("subjectAltName=DNS:localhost", "for the extension SubjectAlternativeName"),
        ("nameConstraints=permitted;DNS:example.com", "for the extension NameConstraints"),
    ],
)
def test_a_ca_gets_no_more_than_its_profile(
    root: Authority, now: datetime, tmp_path: Path, openssl: Openssl, extension: str, message: str
) -> None:
    """A CA's request may ask for what a CA is, and for nothing else."""
    asking = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", extension)
    openssl("req", "-new", "-nodes", "-newkey", "ed25519", "-keyout", "k", "-out", "r", "-subj", "/CN=sub", *asking)
    with pytest.raises(RequestRefusedError, match=message):
        sign_ca(root, Request.load(tmp_path / "r"), now=now)


def test_a_ca_s_request_is_refused_as_a_leaf_s(root: Authority, now: datetime, tmp_path: Path) -> None:
    """Who asks to be a CA does not become a client by mistake."""
    request = Request.load(make_ca_request(tmp_path / "there", "far").csr)
    with pytest.raises(RequestRefusedError, match="asks to be a CA"):
        root.sign_client(request, [], now=now)


def test_commands(tmp_path: Path, jobpki: Jobpki) -> None:
    """The way that the documentation tells: request, sign, carry back, complete."""
    root, jobs = tmp_path / "root", tmp_path / "jobs"
    assert jobpki("init", root, "--path-length", "1", "--name", "root").code == 0
    assert jobpki("request", jobs, "ca", "--name", "jobs").code == 0
    signed = json.loads(jobpki("sign", root, jobs / "ca.csr", "ca", "--out", "jobs", "--json").out)
    assert signed["certificate"] == f"{root}/jobs.crt"
    assert names(root / "jobs.crt") == ["CN=jobs", "CN=root"]
    assert json.loads(jobpki("init", jobs, "--certificate", root / "jobs.crt", "--json").out)["name"] == "jobs"
    assert jobpki("server", jobs, "--host", "localhost").code == 0
    assert names(jobs / "server.crt") == ["CN=localhost", "CN=jobs"]


def test_signed_by_command(tmp_path: Path, jobpki: Jobpki) -> None:
    """Both CAs on one machine: one command."""
    root, jobs = tmp_path / "root", tmp_path / "jobs"
    jobpki("init", root, "--path-length", "1")
    assert "signed by the one in" in jobpki("init", jobs, "--signed-by", root).out
    assert names(jobs / "ca.crt") == ["CN=jobd intermediate CA", "CN=jobd CA"]
    refused = jobpki("init", tmp_path / "x", "--signed-by", jobs, "--name", "x")
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    contradicting = jobpki("init", tmp_path / "x", "--certificate", jobs / "ca.crt", "--name", "x")
    assert "leave them" in contradicting.err


def pem(certificate: x509.Certificate) -> bytes:
    """A certificate in PEM."""
    return certificate.public_bytes(Encoding.PEM)
