"""One set of files in force: the TLS context made of it, and the judgement of a client's certificate by it."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509

from api.errors import CredentialsError
from api.rpc.access import Refusal
from api.tls import server_context
from jobd.trust.chain import Chain, Identity, Issuer, identity_of
from jobd.trust.credentials import certificates_in, check_cas, check_server_certificates
from jobd.trust.expiry import Term
from jobd.trust.files import Files, Snapshot

if TYPE_CHECKING:
    from jobd.trust.revocation import Lists

EXPIRED: Final = Refusal("CERTIFICATE_EXPIRED", "your certificate, or a CA's above it, has expired: have it renewed")
UNKNOWN_CA: Final = Refusal("CA_NOT_TRUSTED", "your certificate's CA is not trusted here any more: get another")
REVOKED: Final = Refusal("CERTIFICATE_REVOKED", "your certificate, or a CA's above it, was revoked: get another")
UNKNOWN: Final = Refusal(
    "REVOCATION_UNKNOWN", "it is not known here whether your certificate is revoked: the server needs a newer list"
)


@dataclass(frozen=True, slots=True)
class Trust:
    """What is in force.

    Attributes:
        context: for the handshakes of new connections.
        anchors: the root CAs that are trusted.
        lists: what is revoked; None when nobody is asked whether.
        demanding: a certificate of which no list in force says anything is refused.
        terms: until when what is in the files is good.
        gaps: what the lists should say, and do not.
        digests: of what the files held.
    """

    context: ssl.SSLContext
    anchors: frozenset[Identity]
    lists: Lists | None
    demanding: bool
    terms: tuple[Term, ...]
    gaps: tuple[str, ...]
    digests: Mapping[Path, bytes] = field(repr=False)

    def good_until(self, chain: Chain) -> datetime:
        """When a client who is let in has to be judged again, if nothing else changes."""
        if self.lists is None or not self.demanding:
            return chain.ends
        found = [self.lists.of(issuer) for _, issuer in chain.issued]
        return min([chain.ends, *(crl.ends for crl in found if crl)])

    def judge(self, chain: Chain, now: datetime) -> Refusal | None:
        """Why a client with this chain is not let in; None if it is."""
        if chain.ends <= now:
            return EXPIRED
        if chain.root not in self.anchors:
            return UNKNOWN_CA
        if self.lists is None:
            return None
        found = [(certificate, self.lists.of(issuer)) for certificate, issuer in chain.issued]
        if any(crl and certificate.serial_number in crl.revoked for certificate, crl in found):
            return REVOKED
        if self.demanding and any(crl is None or not crl.begins <= now < crl.ends for _, crl in found):
            return UNKNOWN
        return None


def load_trust(
    files: Files, snapshot: Snapshot, now: datetime, *, demanding: bool, before: Trust | None = None
) -> Trust:
    """See that what was read of the files fits. Blocks.

    Args:
        demanding: see :class:`Trust`. Without it, lists that cannot be used are a gap at the start; what was in force
            before is never given up for them.
        before: what is in force.

    Raises:
        CredentialsError: they cannot be used. Nothing is changed.
    """
    for path in (files.certificate, files.key, files.ca):
        snapshot.get(path)  # the passphrase is needed only if the key is encrypted, and of the lists more is said below
    with snapshot.places() as places:
        context = server_context(
            certificate=files.certificate, key=files.key, ca=files.ca, passphrase=files.passphrase, places=places
        )
    ours = certificates_in(snapshot.get(files.certificate), files.certificate)
    check_server_certificates(ours, files.certificate, now)
    cas = certificates_in(snapshot.get(files.ca), files.ca)
    check_cas(cas, files.ca, now)
    lists, gaps = _lists(files, snapshot, cas, now, before)
    if gaps and demanding:
        raise CredentialsError(f"{gaps[0]} (--crl-policy soft-fail would go on without)")
    return Trust(
        context,
        frozenset(identity_of(each) for each in cas if each.subject == each.issuer),
        lists,
        demanding,
        tuple(_terms(files, ours, cas, lists)),
        tuple(gaps),
        {path: hashlib.sha256(content).digest() for path, content in snapshot.content.items()},
    )


def _lists(
    files: Files, snapshot: Snapshot, cas: Sequence[x509.Certificate], now: datetime, before: Trust | None
) -> tuple[Lists | None, list[str]]:
    """The lists, and what they lack."""
    if files.crl is None:
        return None, []
    from jobd.trust.revocation import parse_lists

    try:
        lists = parse_lists(snapshot.get(files.crl), files.crl)
    except CredentialsError as exc:
        if before and before.lists:
            raise
        return None, [str(exc)]
    if before and before.lists:
        _check_none_older(files.crl, lists, before.lists)
    return lists, list(_gaps(files.crl, files.ca, lists, [Issuer.of(each) for each in cas], now, before))


def _check_none_older(path: Path, lists: Lists, before: Lists) -> None:
    """Also of the intermediate CAs that only clients have brought: they were asked for."""
    for ca in before.asked_of:
        new, last = lists.of(ca), before.of(ca)
        if new and last and None not in (new.number, last.number) and (new.number or 0) < (last.number or 0):
            raise CredentialsError(
                f"{path}: the revocation list of the CA {last.name!a} has the number {new.number}, and the one in "
                f"force {last.number}: an old list would bring back what was revoked since"
            )


def _gaps(
    path: Path, ca_path: Path, lists: Lists, cas: Sequence[Issuer], now: datetime, before: Trust | None
) -> Iterator[str]:
    for ca in cas:
        if ca.certificate.not_valid_after_utc <= now:  # nobody comes with it
            continue
        name, crl = ca.certificate.subject.rfc4514_string(), lists.of(ca)
        last = before.lists.of(ca) if before and before.lists else None
        if crl is None:
            gap = f"{path} has no revocation list that the CA {name!a} in {ca_path} has signed"
            if last:
                raise CredentialsError(f"{gap}, and one is in force")
            yield gap
            continue
        if not crl.begins <= now < crl.ends:
            yield (
                f"{path}: the revocation list of the CA {name!a} is good from {crl.begins:%Y-%m-%dT%H:%M:%SZ} until "
                f"{crl.ends:%Y-%m-%dT%H:%M:%SZ}, and not now; have a new one made"
            )


def _terms(
    files: Files, ours: Sequence[x509.Certificate], cas: Sequence[x509.Certificate], lists: Lists | None
) -> Iterator[Term]:
    for kind, what, path, certificates in (
        ("certificate", "certificate", files.certificate, ours),
        ("ca", "CA certificate", files.ca, cas),
    ):
        for each in certificates:
            name = ascii(each.subject.rfc4514_string())
            yield Term(kind, f"{what} {name}", path, each.not_valid_before_utc, each.not_valid_after_utc)
    if lists and files.crl:
        for crl in lists.all:
            yield Term("crl", f"revocation list of {crl.name!a}", files.crl, crl.begins, crl.ends)
