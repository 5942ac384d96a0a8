"""Revocation lists: what is on them, and that none ever says less than the last."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import CRLEntryExtensionOID

from api.errors import CredentialsError
from pki.authority import Authority
from pki.crl import CRL_NAME, make_crl
from pki.index import Entry
from pki.index_file import INDEX_NAME, read_index
from pki.keys import KeyKind
from pki.reading import load_crl
from pki.revocation import Reason, by_name, revoke

from .conftest import Jobpki

DAY = timedelta(days=1)


def revoked(ca: Authority, name: str, now: datetime, reason: Reason = Reason.UNSPECIFIED) -> Entry:
    """Issue and revoke a certificate that is good for a week."""
    ca.issue_client(ca.directory, name, [], now=now, lifetime=7 * DAY)
    [entry] = revoke(ca.directory, by_name(ca.directory, name, now), reason, now)
    return entry


def serials(crl: x509.CertificateRevocationList) -> list[int]:
    """What a list revokes."""
    return [line.serial_number for line in crl]


def test_what_a_list_says(ca: Authority, now: datetime) -> None:
    """A list is signed, dated, numbered, names its CA's key, and has each revoked certificate with its reason."""
    first = revoked(ca, "alice", now)
    second = revoked(ca, "bob", now, Reason.KEY_COMPROMISE)
    ca.issue_client(ca.directory, "carol", [], now=now)
    made = make_crl(ca, now=now, lifetime=10 * DAY)
    crl = load_crl(ca.directory / CRL_NAME)
    assert crl == made.crl
    assert crl.is_signature_valid(ca.key.public_key())
    assert crl.issuer == ca.certificate.subject
    assert (crl.last_update_utc, crl.next_update_utc) == (now - timedelta(minutes=5), now + 10 * DAY)
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 1
    identifier = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert identifier.key_identifier == ca.key_identifier.digest
    assert serials(crl) == [first.serial, second.serial]
    assert not crl[0].extensions
    reason = crl[1].extensions.get_extension_for_oid(CRLEntryExtensionOID.CRL_REASON).value
    assert reason == x509.CRLReason(x509.ReasonFlags.key_compromise)
    assert crl[1].revocation_date_utc == now


def test_numbers_grow(ca: Authority, now: datetime) -> None:
    """Each list has a higher number than the last, wherever it is put."""
    numbers = [make_crl(ca, now=now).number, make_crl(ca, now=now, path=ca.directory / "x.crl").number]
    assert [*numbers, make_crl(ca, now=now).number] == [1, 2, 3]


def test_the_expired_leave_after_one_more_list(ca: Authority, now: datetime) -> None:
    """A revoked certificate is on at least one list made after its end, and then no more (RFC 5280, section 3.3)."""
    entry = revoked(ca, "alice", now)
    for days, listed in ((0, True), (6, True), (20, True), (21, False), (40, False)):
        crl = make_crl(ca, now=now + days * DAY).crl
        assert serials(crl) == ([entry.serial] if listed else []), f"after {days} days"


def test_a_lost_index_revives_nobody(ca: Authority, now: datetime) -> None:
    """With an old copy of the index, or none, the list that is there stays: it knows of revocations that would go."""
    ca.issue_client(ca.directory, "alice", [], now=now)
    copy = (ca.directory / INDEX_NAME).read_bytes()
    revoke(ca.directory, by_name(ca.directory, "alice", now), Reason.UNSPECIFIED, now)
    make_crl(ca, now=now)
    before = (ca.directory / CRL_NAME).read_bytes()
    (ca.directory / INDEX_NAME).write_bytes(copy)
    with pytest.raises(CredentialsError, match="revokes 1 certificates that are not revoked in the CA's index"):
        make_crl(ca, now=now)
    (ca.directory / INDEX_NAME).unlink()
    with pytest.raises(CredentialsError, match="put a newer copy of the index back"):
        make_crl(ca, now=now)
    assert (ca.directory / CRL_NAME).read_bytes() == before


def test_numbers_grow_over_a_lost_index(ca: Authority, now: datetime) -> None:
    """A new index goes on from the number of the list that is there."""
    for _ in range(3):
        make_crl(ca, now=now)
    (ca.directory / INDEX_NAME).unlink()
    assert make_crl(ca, now=now).number == 4


@pytest.mark.parametrize("kind", list(KeyKind))
def test_another_ca_s_list_is_replaced(ca: Authority, now: datetime, tmp_path: Path, kind: KeyKind) -> None:
    """A list that another key signed says nothing of this CA's numbers and certificates."""
    other = Authority.create(tmp_path / "other", now=now, kind=kind)
    revoked(other, "eve", now)
    make_crl(other, now=now, path=ca.directory / CRL_NAME)
    assert make_crl(ca, now=now).number == 1
    assert serials(load_crl(ca.directory / CRL_NAME)) == []


def test_a_damaged_list_is_not_replaced(ca: Authority, now: datetime) -> None:
    """What cannot be read might revoke somebody: its owner moves it away."""
    (ca.directory / CRL_NAME).write_text("nothing")
    with pytest.raises(CredentialsError, match=r"can be read: .*; if .*, move that file away"):
        make_crl(ca, now=now)


def test_an_expired_ca_signs_no_list(tmp_path: Path, now: datetime) -> None:
    """A CA that has expired is told so, and its number is not spent."""
    ca = Authority.create(tmp_path / "ca", now=now, lifetime=DAY)
    with pytest.raises(CredentialsError, match="expired"):
        make_crl(ca, now=now + 2 * DAY)
    assert read_index(ca.directory, ca.certificate).crl_number == 0


def test_crl_command(pki_dir: Path, jobpki: Jobpki) -> None:
    """crl says where the list is and how much is on it; show reads it."""
    jobpki("client", pki_dir, "alice", "--no-role")
    serial = json.loads(jobpki("revoke", pki_dir, "--name", "alice", "--json").out)["serial"]
    facts = json.loads(jobpki("crl", pki_dir, "--days", "7", "--json").out)
    assert (facts["crl"], facts["number"], facts["revoked"]) == (f"{pki_dir}/ca.crl", 1, 1)
    shown = json.loads(jobpki("show", pki_dir / "ca.crl", "--json").out)
    assert (shown["what"], shown["number"], shown["revoked"]) == ("revocation list", 1, [serial])
    assert shown["next_update"] == facts["next_update"]
    assert jobpki("show", pki_dir / "ca.crl", "--expires-within", "8d").code == 3
    assert jobpki("show", pki_dir / "ca.crl", "--expires-within", "6d").code == 0
