"""The index: what a CA has issued, and what of it is revoked. Here is its content; ``index_file`` keeps it.

JSON lines: a header, then one certificate a line, by the names that ``jobpki list --json`` prints. OpenSSL's
``index.txt`` was not taken: it has no place for the profile, the first day and the fingerprint, its years have two
digits, and nothing in it tells a truncated file from a whole one. The header here has the SHA-256 of everything else,
so that every damage is seen, and names the CA's key, so that another CA's index is not taken for its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from pki.names import common_names
from pki.validity import utc_text

VERSION: Final = 1

Fields = dict[str, str | int | None]
"""A line, parsed."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """That a certificate is revoked, from when on, and why (``cryptography``'s and RFC 5280's name of the reason)."""

    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A certificate that was issued.

    Attributes:
        serial: its serial number.
        name: the common name of its subject: the principal's, or the first host; "" if there is none.
        subject: all of the subject, as RFC 4514 writes it.
        profile: "server", "client" or "ca".
        not_before: from when on it is valid.
        not_after: until when it is valid.
        fingerprint: the SHA-256 of its DER form, as ``jobpki show`` prints it.
        revoked: set when it is.
    """

    serial: int
    name: str
    subject: str
    profile: str
    not_before: datetime
    not_after: datetime
    fingerprint: str
    revoked: Revocation | None = None

    @classmethod
    def of(cls, certificate: x509.Certificate, profile: str) -> Entry:
        """The entry of a certificate that is not revoked."""
        return cls(
            serial=certificate.serial_number,
            name=next(iter(common_names(certificate.subject)), ""),
            subject=certificate.subject.rfc4514_string(),
            profile=profile,
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            fingerprint=certificate.fingerprint(hashes.SHA256()).hex(":").upper(),
        )

    def fields(self) -> Fields:
        """The entry as plain values, by the names of the file and of ``--json``."""
        revoked = self.revoked
        return {
            "serial": f"{self.serial:x}",
            "name": self.name,
            "subject": self.subject,
            "profile": self.profile,
            "valid_from": utc_text(self.not_before),
            "valid_until": utc_text(self.not_after),
            "fingerprint_sha256": self.fingerprint,
            "revoked_at": utc_text(revoked.at) if revoked else None,
            "reason": revoked.reason if revoked else None,
        }


@dataclass(frozen=True, slots=True)
class Index:
    """All that a CA has issued, in that order, and where its revocation lists stand.

    Attributes:
        ca: which CA's it is: :func:`owner_of` its certificate.
        entries: by serial number.
        crl_number: the number of the last revocation list; 0 if there was none.
        crl_at: when that was made.
    """

    ca: str
    entries: Mapping[int, Entry] = field(default_factory=dict)
    crl_number: int = 0
    crl_at: datetime | None = None

    def with_entry(self, entry: Entry) -> Index:
        """With ``entry``, in the place of the one that has its serial number."""
        return replace(self, entries={**self.entries, entry.serial: entry})

    def with_crl(self, number: int, at: datetime) -> Index:
        """With a new revocation list."""
        return replace(self, crl_number=number, crl_at=at)

    def named(self, name: str) -> list[Entry]:
        """The entries with this name, in the order in which they were issued."""
        return [entry for entry in self.entries.values() if entry.name == name]


def owner_of(ca: x509.Certificate) -> str:
    """What tells a CA's index from another's: the SHA-256 of its public key, which outlives its certificate."""
    return hashlib.sha256(
        ca.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def encode(index: Index) -> bytes:
    """The file's content."""
    lines = "".join(json.dumps(entry.fields()) + "\n" for entry in index.entries.values()).encode()
    header: Fields = {
        "jobpki_index": VERSION,
        "ca_key_sha256": index.ca,
        "crl_number": index.crl_number,
        "crl_at": utc_text(index.crl_at) if index.crl_at else None,
    }
    header["sha256"] = hashlib.sha256(json.dumps(header).encode() + b"\n" + lines).hexdigest()
    return json.dumps(header).encode() + b"\n" + lines


def decode(content: bytes) -> Index:
    """What :func:`encode` made into ``content``.

    Raises:
        ValueError: it is not what :func:`encode` makes, to the last byte; the message says where it differs.
    """
    first, _, lines = content.partition(b"\n")
    header = _parse(first, "the header")
    if header.get("jobpki_index") != VERSION:
        raise ValueError(f"the header names no version that this jobpki knows ({VERSION})")
    entries = [_entry(_parse(line, f"line {number}")) for number, line in enumerate(lines.splitlines(), 2)]
    index = Index(
        _text(header, "ca_key_sha256"),
        {entry.serial: entry for entry in entries},
        _number(header, "crl_number"),
        _moment(_text(header, "crl_at")) if header.get("crl_at") is not None else None,
    )
    if encode(index) != content:
        raise ValueError("it is not what was written: its SHA-256 differs")
    return index


def _parse(line: bytes, where: str) -> Fields:
    try:
        fields: object = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"{where} is not JSON") from exc
    if not isinstance(fields, dict):
        raise ValueError(f"{where} is not a JSON object")  # noqa: TRY004 - it is the file's content that is wrong
    return fields


def _entry(fields: Fields) -> Entry:
    revoked = fields.get("revoked_at") is not None
    return Entry(
        serial=int(_text(fields, "serial"), 16),
        name=_text(fields, "name"),
        subject=_text(fields, "subject"),
        profile=_text(fields, "profile"),
        not_before=_moment(_text(fields, "valid_from")),
        not_after=_moment(_text(fields, "valid_until")),
        fingerprint=_text(fields, "fingerprint_sha256"),
        revoked=Revocation(_moment(_text(fields, "revoked_at")), _text(fields, "reason")) if revoked else None,
    )


def _text(fields: Fields, name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise ValueError(f"there is no text {name}")  # noqa: TRY004 - it is the file's content that is wrong
    return value


def _number(fields: Fields, name: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"there is no whole number {name}")
    return value


def _moment(text: str) -> datetime:
    if not text.endswith("Z"):
        raise ValueError(f"the time {text!a} is not in UTC")
    return datetime.fromisoformat(text)  # it takes other forms as well; that it is the one written, the digest says
