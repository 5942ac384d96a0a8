"""The index of what was issued: complete, whole, and the CA's own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from api.errors import ConfigError
from pki import index_file
from pki.authority import Authority
from pki.errors import DamagedIndexError, ExistingFilesError
from pki.index import Entry, Index, Revocation, decode, encode, owner_of
from pki.index_file import INDEX_NAME, LOCK_NAME, locked, read_index
from pki.keys import new_key
from pki.reading import load_certificate
from pki.requests import Request, client_request

from .conftest import Jobpki

MOMENTS = st.integers(0, 1 << 32).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
ENTRIES = st.builds(
    Entry,
    serial=st.integers(1, 1 << 159),
    name=st.text(max_size=64),
    subject=st.text(max_size=200),
    profile=st.sampled_from(["server", "client", "ca", "other"]),
    not_before=MOMENTS,
    not_after=MOMENTS,
    fingerprint=st.text("0123456789ABCDEF:", max_size=95),
    revoked=st.none() | st.builds(Revocation, MOMENTS, st.sampled_from(["unspecified", "keyCompromise"])),
)
INDEXES = st.builds(
    lambda entries, number, at: Index("ab" * 32, {entry.serial: entry for entry in entries}, number, at),
    st.lists(ENTRIES, max_size=4),
    st.integers(0, 1 << 40),
    st.none() | MOMENTS,
)


def entries_of(ca: Authority) -> list[Entry]:
    """What the index on the disk has."""
    return list(read_index(ca.directory, ca.certificate).entries.values())


def test_what_is_issued_is_in_the_index(ca: Authority, now: datetime) -> None:
    """Every certificate is entered, with all that is needed to find and to revoke it."""
    server = load_certificate(ca.issue_server(ca.directory, ["localhost"], now=now).certificate)
    client = load_certificate(ca.issue_client(ca.directory, "alice", [], now=now).certificate)
    assert entries_of(ca) == [Entry.of(server, "server"), Entry.of(client, "client")]
    entry = entries_of(ca)[1]
    assert (entry.name, entry.profile, entry.serial) == ("alice", "client", client.serial_number)
    assert (entry.not_before, entry.not_after) == (client.not_valid_before_utc, client.not_valid_after_utc)
    assert entry.revoked is None


def test_what_is_signed_without_files_is_in_the_index(ca: Authority, now: datetime) -> None:
    """A certificate that the library hands out is entered before it is returned."""
    certificate = ca.sign_client(Request(client_request(new_key(), "bob"), "bob's"), [], now=now)
    assert [entry.serial for entry in entries_of(ca)] == [certificate.serial_number]


def test_without_an_index_nothing_is_issued(ca: Authority, now: datetime, tmp_path: Path) -> None:
    """What cannot be entered is not handed out: here the index cannot be replaced, since a directory has its name."""
    (ca.directory / INDEX_NAME).unlink()
    (ca.directory / INDEX_NAME).mkdir()
    with pytest.raises(ConfigError):
        ca.issue_client(tmp_path, "alice", [], now=now)
    assert not list(tmp_path.glob("alice*"))


def test_an_older_ca_begins_an_index(ca: Authority, now: datetime) -> None:
    """A CA that has no index yet gets one when it signs."""
    (ca.directory / INDEX_NAME).unlink()
    ca.issue_client(ca.directory, "alice", [], now=now)
    assert [entry.name for entry in entries_of(ca)] == ["alice"]


def test_the_index_is_its_owner_s_only(ca: Authority, now: datetime) -> None:
    """Names of principals are nobody else's business."""
    ca.issue_client(ca.directory, "alice", [], now=now)
    assert {(ca.directory / name).stat().st_mode & 0o777 for name in (INDEX_NAME, LOCK_NAME)} == {0o600}


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: content[:-1], id="cut by a byte"),
        pytest.param(lambda content: content[: content.rindex(b"\n", 0, -1) + 1], id="cut by a line"),
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: b"\0" * len(content), id="zeros"),
        pytest.param(lambda content: content + b"\n", id="a line more"),
        pytest.param(lambda content: content.replace(b'"alice"', b'"alicf"', 1), id="a changed name"),
        pytest.param(lambda content: content.replace(b'"crl_number": 0', b'"crl_number": 7', 1), id="a changed number"),
        pytest.param(lambda content: content.replace(b'"jobpki_index": 1', b'"jobpki_index": 2', 1), id="newer"),
        pytest.param(lambda content: b"serial 01\n", id="something else"),
        pytest.param(lambda content: b"[" * 100_000, id="deep"),
    ],
)
def test_a_damaged_index_is_refused_and_kept(
    ca: Authority, now: datetime, jobpki: Jobpki, damage: Callable[[bytes], bytes]
) -> None:
    """Nothing is signed, revoked or listed with an index that is not whole; the file stays for its owner to see."""
    ca.issue_client(ca.directory, "alice", [], now=now)
    path = ca.directory / INDEX_NAME
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(DamagedIndexError, match=r"index\.jsonl is damaged"):
        ca.issue_client(ca.directory, "bob", [], now=now)
    for argv in (("revoke", ca.directory, "--name", "alice"), ("list", ca.directory), ("crl", ca.directory)):
        result = jobpki(*argv)
        assert (result.code, result.out) == (1, "")
        assert "put a copy of it back" in result.err
    assert path.read_bytes() == damaged
    assert not (ca.directory / "bob.crt").exists()


def test_another_ca_s_index_is_refused(ca: Authority, now: datetime, tmp_path: Path) -> None:
    """An index that lies in the wrong directory is not taken."""
    other = Authority.create(tmp_path / "other", now=now)
    (other.directory / INDEX_NAME).replace(ca.directory / INDEX_NAME)
    with pytest.raises(DamagedIndexError, match="that of another CA"):
        ca.issue_client(ca.directory, "alice", [], now=now)


def test_a_new_ca_begins_a_new_index(ca: Authority, now: datetime) -> None:
    """With --force the index goes with the CA that it was of; without, both stay."""
    ca.issue_client(ca.directory, "alice", [], now=now)
    with pytest.raises(ExistingFilesError):
        Authority.create(ca.directory, now=now)
    assert len(entries_of(ca)) == 1
    assert entries_of(Authority.create(ca.directory, now=now, force=True)) == []


def test_one_writer_at_a_time(ca: Authority, now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one writes, another waits, and says so in the end."""
    monkeypatch.setattr(index_file, "LOCK_SECONDS", 0.05)
    with locked(ca.directory), pytest.raises(ConfigError, match=r"another jobpki has held .*index\.lock"):
        ca.issue_client(ca.directory, "alice", [], now=now)
    ca.issue_client(ca.directory, "alice", [], now=now)


def test_a_lock_that_is_a_link_is_refused(ca: Authority, now: datetime, tmp_path: Path) -> None:
    """The lock's file is made in the CA's directory, not where a link leads."""
    (ca.directory / LOCK_NAME).unlink(missing_ok=True)
    (ca.directory / LOCK_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="cannot lock"):
        ca.issue_client(ca.directory, "alice", [], now=now)
    assert not (tmp_path / "elsewhere").exists()


def test_what_a_killed_writer_left_is_swept(ca: Authority, now: datetime) -> None:
    """Half an index under a temporary name goes when the next one is written."""
    left = ca.directory / f".{INDEX_NAME}.0011aabb.tmp"
    left.write_bytes(b"half")
    ca.issue_client(ca.directory, "alice", [], now=now)
    assert not left.exists()


def test_the_format_stays(ca: Authority, now: datetime) -> None:
    """The file is JSON lines: a header with a digest and the CA's key, then an entry a line."""
    certificate = load_certificate(ca.issue_client(ca.directory, "alice", [], now=now).certificate)
    header, line = (json.loads(line) for line in (ca.directory / INDEX_NAME).read_text().splitlines())
    assert header["jobpki_index"] == 1
    assert (header["crl_number"], header["ca_key_sha256"]) == (0, owner_of(ca.certificate))
    assert line["serial"] == f"{certificate.serial_number:x}"
    assert line["valid_until"] == certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert (line["revoked_at"], line["reason"]) == (None, None)


@settings(max_examples=50, deadline=None)
@given(INDEXES)
def test_what_is_written_is_read(index: Index) -> None:
    """Any index comes back as it was."""
    assert decode(encode(index)) == index


@settings(max_examples=50, deadline=None)
@given(INDEXES, st.data())
def test_no_changed_byte_is_overlooked(index: Index, data: st.DataObject) -> None:
    """A byte changed anywhere is refused."""
    content = bytearray(encode(index))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError):
        decode(bytes(content))


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    """Nothing but a ValueError comes from what is no index."""
    with pytest.raises(ValueError):
        decode(content)


def test_owner_outlives_its_certificate(ca: Authority, now: datetime, tmp_path: Path) -> None:
    """A CA whose certificate was made anew for the same key keeps its index."""
    again = x509.CertificateBuilder(
        issuer_name=ca.certificate.subject,
        subject_name=ca.certificate.subject,
        public_key=ca.key.public_key(),
        serial_number=2,
        not_valid_before=now,
        not_valid_after=now + timedelta(days=1),
    ).sign(ca.key, None if ca.certificate.signature_hash_algorithm is None else ca.certificate.signature_hash_algorithm)
    assert owner_of(again) == owner_of(ca.certificate)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_directory_that_cannot_be_written(ca: Authority, now: datetime, tmp_path: Path) -> None:
    """A CA in a directory that may not be written signs nothing."""
    ca.directory.chmod(0o500)
    try:
        with pytest.raises(ConfigError, match="cannot lock"):
            ca.issue_client(tmp_path, "alice", [], now=now)
    finally:
        ca.directory.chmod(0o700)
