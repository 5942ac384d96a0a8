"""Revoking: which certificate is meant, once and for good."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from pki.authority import Authority
from pki.errors import ForeignCertificateError, NotIssuedError, RevokedError
from pki.index import Entry
from pki.index_file import INDEX_NAME, read_index
from pki.reading import load_certificate
from pki.revocation import Choice, Reason, by_file, by_name, by_serial, revoke

from .conftest import Jobpki


@pytest.fixture
def alice(ca: Authority, now: datetime) -> x509.Certificate:
    """A certificate of the CA."""
    return load_certificate(ca.issue_client(ca.directory, "alice", [], now=now).certificate)


def entry_of(ca: Authority, certificate: x509.Certificate) -> Entry:
    """What the index says of it."""
    return read_index(ca.directory, ca.certificate).entries[certificate.serial_number]


@pytest.mark.parametrize("way", ["file", "serial", "colons", "name"])
def test_every_way_to_name_it(ca: Authority, alice: x509.Certificate, now: datetime, way: str) -> None:
    """A certificate is named by its file, its serial number as any tool writes it, or its principal."""
    digits = f"{alice.serial_number:040x}"
    colons = ":".join(digits[place : place + 2] for place in range(0, 40, 2)).upper()
    choices: dict[str, Choice] = {
        "file": by_file(ca.directory, ca.certificate, ca.directory / "alice.crt"),
        "serial": by_serial(ca.directory, f"{alice.serial_number:x}"),
        "colons": by_serial(ca.directory, colons),
        "name": by_name(ca.directory, "alice", now),
    }
    later = now + timedelta(hours=1)
    [entry] = revoke(ca.directory, choices[way], Reason.KEY_COMPROMISE, later)
    assert entry == entry_of(ca, alice)
    assert entry.revoked is not None
    assert (entry.revoked.at, entry.revoked.reason) == (later, "keyCompromise")


def test_twice_is_an_error(ca: Authority, alice: x509.Certificate, now: datetime) -> None:
    """What is revoked stays so: neither its time nor its reason can be changed afterwards."""
    choice = by_serial(ca.directory, f"{alice.serial_number:x}")
    revoke(ca.directory, choice, Reason.SUPERSEDED, now)
    with pytest.raises(RevokedError, match=r"was revoked at 2026-01-01T12:00:00Z \(superseded\)"):
        revoke(ca.directory, choice, Reason.KEY_COMPROMISE, now + timedelta(days=1))
    revoked = entry_of(ca, alice).revoked
    assert revoked is not None
    assert revoked.reason == "superseded"


def test_another_ca_s_certificate_is_refused(ca: Authority, now: datetime, tmp_path: Path) -> None:
    """A certificate of another CA is refused, of the same name or not."""
    same_name = Authority.create(tmp_path / "same", now=now).issue_client(tmp_path, "eve", [], now=now)
    with pytest.raises(ForeignCertificateError, match="as here, but the signature is another key's"):
        by_file(ca.directory, ca.certificate, same_name.certificate)
    other = Authority.create(tmp_path / "other", now=now, name="other").issue_client(tmp_path, "mallory", [], now=now)
    with pytest.raises(ForeignCertificateError, match="its issuer is 'CN=other'"):
        by_file(ca.directory, ca.certificate, other.certificate)


def test_what_was_never_issued_is_refused(ca: Authority, alice: x509.Certificate, now: datetime) -> None:
    """A serial number or name that the index does not have is an error, and changes nothing."""
    before = (ca.directory / INDEX_NAME).read_bytes()
    for choice in (by_serial(ca.directory, "1234"), by_name(ca.directory, "bob", now)):
        with pytest.raises(NotIssuedError, match="has no certificate"):
            revoke(ca.directory, choice, Reason.UNSPECIFIED, now)
    assert (ca.directory / INDEX_NAME).read_bytes() == before


def test_a_name_with_several_certificates(ca: Authority, alice: x509.Certificate, now: datetime) -> None:
    """A name with several certificates in force is not guessed at: their serial numbers are told, or all are taken."""
    again = load_certificate(ca.issue_client(ca.directory, "alice", [], now=now, stem="again").certificate)
    with pytest.raises(NotIssuedError, match=f"{alice.serial_number:x}, {again.serial_number:x}"):
        revoke(ca.directory, by_name(ca.directory, "alice", now), Reason.UNSPECIFIED, now)
    assert entry_of(ca, alice).revoked is None
    assert len(revoke(ca.directory, by_name(ca.directory, "alice", now, every=True), Reason.UNSPECIFIED, now)) == 2
    with pytest.raises(RevokedError, match="no certificate for 'alice' is in force"):
        revoke(ca.directory, by_name(ca.directory, "alice", now, every=True), Reason.UNSPECIFIED, now)


def test_an_expired_one_of_the_name_does_not_count(ca: Authority, now: datetime) -> None:
    """By name the one in force is meant, whatever was before."""
    old = ca.issue_client(ca.directory, "bob", [], now=now, lifetime=timedelta(days=1), stem="old")
    later = now + timedelta(days=2)
    ca.issue_client(ca.directory, "bob", [], now=later)
    [entry] = revoke(ca.directory, by_name(ca.directory, "bob", later), Reason.UNSPECIFIED, later)
    assert entry.serial != load_certificate(old.certificate).serial_number


def test_what_is_older_than_the_index_is_revoked_by_its_file(
    ca: Authority, alice: x509.Certificate, now: datetime
) -> None:
    """A certificate that the CA signed before it had an index is entered when it is revoked."""
    (ca.directory / INDEX_NAME).unlink()
    choice = by_file(ca.directory, ca.certificate, ca.directory / "alice.crt")
    revoke(ca.directory, choice, Reason.UNSPECIFIED, now)
    assert (entry_of(ca, alice).name, entry_of(ca, alice).profile) == ("alice", "client")
    assert entry_of(ca, alice).revoked is not None


def test_the_key_is_not_needed(ca: Authority, alice: x509.Certificate, now: datetime) -> None:
    """Whoever keeps the index can revoke while the key is locked away."""
    ca.key_path.unlink()
    revoke(ca.directory, by_name(ca.directory, "alice", now), Reason.CESSATION_OF_OPERATION, now)
    assert entry_of(ca, alice).revoked is not None


def test_revoke_command(pki_dir: Path, jobpki: Jobpki) -> None:
    """The command says what is revoked and what comes next; twice, it exits with 1 and one line."""
    jobpki("client", pki_dir, "alice", "--no-role")
    facts = json.loads(jobpki("revoke", pki_dir, "--name", "alice", "--reason", "keyCompromise", "--json").out)
    assert (facts["name"], facts["state"], facts["reason"]) == ("alice", "revoked", "keyCompromise")
    assert facts["next"].startswith(f"jobpki crl {pki_dir}")
    again = jobpki("revoke", pki_dir, "--serial", facts["serial"])
    assert (again.code, again.out, again.err.count("\n")) == (1, "", 1)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--name", "a", "--serial", "1"],
        ["--name", "a", "--reason", "certificateHold"],
        ["--name", "a", "--reason", "removeFromCRL"],
    ],
    ids=" ".join,
)
def test_revoke_usage(pki_dir: Path, jobpki: Jobpki, argv: list[str]) -> None:
    """One certificate is named, and a reason that stays."""
    assert jobpki("revoke", pki_dir, *argv).code == 2


@pytest.mark.parametrize("serial", ["", "xyz", "1" * 41, "-1", "0x"])
def test_bad_serials(pki_dir: Path, jobpki: Jobpki, serial: str) -> None:
    """What is no serial number is told so."""
    result = jobpki("revoke", pki_dir, f"--serial={serial}")
    assert result.code == 1
    assert "is not a serial number" in result.err


def test_every_reason_has_the_library_s_name() -> None:
    """A reason goes into a list as it stands."""
    assert {x509.ReasonFlags(str(reason)) for reason in Reason}
