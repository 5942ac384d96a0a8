"""What others say of our certificates and revocation lists: OpenSSL, GnuTLS, pkilint and certvalidator.

Each is asked if it is installed; a judge that is missing is named by its skipped tests, which fail in the session
of the judges.
"""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from api.identity import Role
from pki.authority import Authority
from pki.crl import make_crl
from pki.intermediate import create_intermediate
from pki.keys import KeyKind
from pki.reading import load_certificates
from pki.revocation import Reason, by_name, revoke

DAY = timedelta(days=1)
PROGRAMS = Path(sys.executable).parent
"""Where pkilint's commands are, if it is installed."""


@dataclass(frozen=True)
class House:
    """A root, an intermediate CA, its leaves (``alice`` is revoked), and the lists of both CAs."""

    root: Authority
    sub: Authority

    @classmethod
    def build(cls, directory: Path, kind: KeyKind) -> House:
        now = datetime.now(UTC)
        root = Authority.create(directory / "root", now=now, name="root", path_length=1, kind=kind)
        sub = create_intermediate(root, directory / "sub", now=now, name="sub", kind=kind)
        sub.issue_server(sub.directory, ["jobs.example.com", "127.0.0.1", "::1"], now=now, kind=kind)
        for name in ("alice", "bob", "carol"):
            sub.issue_client(sub.directory, name, [Role.WRITER], now=now, kind=kind)
        revoke(sub.directory, by_name(sub.directory, "alice", now), Reason.KEY_COMPROMISE, now)
        revoke(sub.directory, by_name(sub.directory, "carol", now), Reason.UNSPECIFIED, now)
        for ca in (root, sub):
            make_crl(ca, now=now)
        return cls(root, sub)

    @property
    def lists(self) -> Path:
        """The lists of both CAs in one file."""
        path = self.sub.directory / "all.crl"
        path.write_bytes(b"".join((ca.directory / "ca.crl").read_bytes() for ca in (self.root, self.sub)))
        return path

    def leaf(self, name: str) -> Path:
        """A leaf's file, with its chain."""
        return self.sub.directory / f"{name}.crt"


@pytest.fixture(scope="module", params=list(KeyKind))
def house(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> House:
    """One for each kind of key."""
    return House.build(tmp_path_factory.mktemp("house"), request.param)


class Judge(Protocol):
    """Says whether a leaf is good, by the chain in its file, the root, and these lists."""

    def __call__(self, house: House, leaf: Path, lists: Path) -> bool: ...


def openssl(house: House, leaf: Path, lists: Path, *flags: str) -> bool:
    """``openssl verify``, in its strict reading, with a list of each CA in the chain."""
    command = ["openssl", "verify", "-x509_strict", "-crl_check_all", "-CRLfile", lists, *flags]
    trust = ["-CAfile", house.root.certificate_path, "-untrusted", leaf]
    return subprocess.run([*command, *trust, leaf], capture_output=True, check=False).returncode == 0


def gnutls(house: House, leaf: Path, lists: Path) -> bool:
    """``certtool --verify``."""
    command = ["certtool", "--verify", "--verify-profile", "medium", "--load-crl", lists]
    trust = ["--load-ca-certificate", house.root.certificate_path]
    return subprocess.run([*command, *trust, "--infile", leaf], capture_output=True, check=False).returncode == 0


def certvalidator(house: House, leaf: Path, lists: Path) -> bool:
    """pyhanko-certvalidator, which demands a list of each CA in the chain."""
    from asn1crypto import crl as asn1_crl  # only where it is installed
    from asn1crypto import x509 as asn1_x509  # the same
    from pyhanko_certvalidator import CertificateValidator, ValidationContext  # the same
    from pyhanko_certvalidator.errors import PathError, ValidationError  # the same

    def der(path: Path) -> list[asn1_x509.Certificate]:
        return [asn1_x509.Certificate.load(cert.public_bytes(Encoding.DER)) for cert in load_certificates(path)]

    first, *rest = der(leaf)
    given = lists.read_bytes().split(b"-----END X509 CRL-----\n")[:-1]
    crls = [x509.load_pem_x509_crl(text + b"-----END X509 CRL-----\n").public_bytes(Encoding.DER) for text in given]
    context = ValidationContext(
        trust_roots=der(house.root.certificate_path),
        crls=[asn1_crl.CertificateList.load(crl) for crl in crls],
        revocation_mode="require",
        allow_fetching=False,
    )
    validator = CertificateValidator(first, intermediate_certs=rest, validation_context=context)
    purpose = "server_auth" if leaf.stem == "server" else "client_auth"
    try:
        asyncio.run(validator.async_validate_usage({"digital_signature"}, extended_key_usage={purpose}))
    except (ValidationError, PathError):
        return False
    return True


JUDGES = [
    pytest.param(openssl, id="openssl"),
    pytest.param(
        gnutls,
        id="certtool",
        marks=pytest.mark.skipif(not shutil.which("certtool"), reason="GnuTLS certtool is not installed"),
    ),
    pytest.param(
        certvalidator,
        id="certvalidator",
        marks=pytest.mark.skipif(
            not importlib.util.find_spec("pyhanko_certvalidator"), reason="pyhanko-certvalidator is not installed"
        ),
    ),
]
has_pkilint = pytest.mark.skipif(not (PROGRAMS / "lint_pkix_cert").exists(), reason="pkilint is not installed")


@pytest.mark.parametrize("judge", JUDGES)
def test_the_good_and_the_revoked(house: House, judge: Judge) -> None:
    """Who is on the list is refused, for a reason given or not; who is not is accepted."""
    verdicts = {name: judge(house, house.leaf(name), house.lists) for name in ("server", "bob", "alice", "carol")}
    assert verdicts == {"server": True, "bob": True, "alice": False, "carol": False}


@pytest.mark.parametrize("judge", JUDGES)
def test_a_revoked_ca_takes_its_leaves_with_it(tmp_path: Path, judge: Judge) -> None:
    """When the intermediate CA is on its root's list, none of its leaves is good any more."""
    house = House.build(tmp_path, KeyKind.P256)
    now = datetime.now(UTC)
    assert judge(house, house.leaf("bob"), house.lists)
    revoke(house.root.directory, by_name(house.root.directory, "sub", now), Reason.CA_COMPROMISE, now)
    make_crl(house.root, now=now)
    assert not judge(house, house.leaf("bob"), house.lists)


def test_openssl_refuses_a_stale_list(house: House) -> None:
    """After its next update a list is as good as none: openssl then accepts nobody."""
    moment = datetime.now(UTC) + 31 * DAY
    assert not openssl(house, house.leaf("bob"), house.lists, "-attime", str(int(moment.timestamp())))
    moment = datetime.now(UTC) + 29 * DAY
    assert openssl(house, house.leaf("bob"), house.lists, "-attime", str(int(moment.timestamp())))


def test_openssl_refuses_another_ca_s_list(house: House, tmp_path: Path) -> None:
    """A list that another CA of the same name signed is not taken."""
    other = House.build(tmp_path, KeyKind.P256)
    assert not openssl(house, house.leaf("bob"), other.lists)


def test_openssl_reads_a_list(house: House) -> None:
    """``openssl crl`` verifies the list and finds its number, its CA's key and the reasons."""
    path = house.sub.directory / "ca.crl"
    command = ["openssl", "crl", "-in", path, "-CAfile", house.sub.certificate_path, "-noout", "-text"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "verify OK" in ended.stderr
    for text in ("X509v3 CRL Number", "X509v3 Authority Key Identifier", "Key Compromise", "Version 2"):
        assert text in ended.stdout


@pytest.mark.skipif(not shutil.which("certtool"), reason="GnuTLS certtool is not installed")
def test_gnutls_verifies_a_list(house: House) -> None:
    """``certtool --verify-crl`` accepts the list as its CA's."""
    command = ["certtool", "--verify-crl", "--load-ca-certificate", house.sub.certificate_path]
    subprocess.run([*command, "--infile", house.sub.directory / "ca.crl"], capture_output=True, check=True)


@has_pkilint
@pytest.mark.parametrize("name", ["root", "sub", "server", "bob"])
def test_pkilint_finds_nothing_in_certificates(house: House, tmp_path: Path, name: str) -> None:
    """RFC 5280 by pkilint: not a warning, not a notice."""
    source = {"root": house.root.certificate_path, "sub": house.sub.certificate_path}.get(name, house.leaf(name))
    single = tmp_path / "single.crt"
    single.write_bytes(load_certificates(source)[0].public_bytes(Encoding.PEM))
    assert _lint("lint_pkix_cert", "lint", "-s", "NOTICE", single) == (0, "")


@has_pkilint
def test_pkilint_finds_nothing_in_lists(house: House) -> None:
    """RFC 5280, section 5, by pkilint: not a warning, not a notice."""
    for ca in (house.root, house.sub):
        assert _lint("lint_crl", "lint", "-t", "CRL", "-p", "PKIX", "-s", "NOTICE", ca.directory / "ca.crl") == (0, "")


def _lint(program: str, *argv: str | Path) -> tuple[int, str]:
    ended = subprocess.run([PROGRAMS / program, *argv], capture_output=True, text=True, check=False)
    return ended.returncode, (ended.stdout + ended.stderr).strip()
