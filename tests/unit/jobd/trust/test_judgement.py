"""Who is let in by a set of files, and why somebody is not: every case, at any time, without a connection."""

from __future__ import annotations

import grp
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from api.errors import CredentialsError
from api.identity import Role
from jobd.trust.chain import Chain, Issuer, chain_of
from jobd.trust.files import Files
from jobd.trust.revocation import parse_lists
from jobd.trust.trust import Trust, load_trust
from pki.authority import Authority
from pki.crl import make_crl
from pki.intermediate import create_intermediate
from pki.revocation import Reason, by_name, revoke
from tests.support.accounts import NOBODY, needs_root
from tests.support.live_pki import LivePki

DAY = timedelta(days=1)


def load(pki: LivePki, *, crl: Path | None, demanding: bool = True, before: Trust | None = None) -> Trust:
    """What is in force by the files of a CA, and a list."""
    files = Files(pki.certificate("server"), pki.key("server"), pki.ca, None, crl)
    return load_trust(files, files.read(), datetime.now(UTC), demanding=demanding, before=before)


def chain(*paths: Path) -> Chain:
    """The certificates in these files, one after another."""
    found = [each for path in paths for each in x509.load_pem_x509_certificates(path.read_bytes())]
    return chain_of(tuple(each.public_bytes(Encoding.DER) for each in found))


def judged(trust: Trust, chain: Chain, after: timedelta = timedelta()) -> str:
    """The reason of a refusal, "" for none, when so much time has passed."""
    refusal = trust.judge(chain, datetime.now(UTC) + after)
    return refusal.reason if refusal else ""


# ---- without a list


def test_a_trusted_certificate_is_let_in_until_it_expires(ours: LivePki) -> None:
    """To the second: OpenSSL refuses it from the moment on that it names as its last."""
    ours.client("brief", lifetime=timedelta(minutes=1))
    trust, brief = load(ours, crl=None), chain(ours.certificate("brief"), ours.ca)
    assert trust.judge(brief, brief.ends - timedelta(seconds=1)) is None
    assert trust.good_until(brief) == brief.ends == brief.leaf.not_valid_after_utc
    refusal = trust.judge(brief, brief.ends)
    assert refusal
    assert refusal.reason == "CERTIFICATE_EXPIRED"


def test_a_ca_that_has_expired_ends_what_it_signed(ours: LivePki, tmp_path: Path) -> None:
    """The chain is as good as what ends first in it."""
    now = datetime.now(UTC)
    root = Authority.create(tmp_path / "root", now=now, path_length=1, lifetime=20 * DAY)
    sub = create_intermediate(root, tmp_path / "sub", now=now, name="sub", lifetime=10 * DAY)
    alice = sub.issue_client(tmp_path, "alice", [Role.WRITER], now=now, lifetime=5 * DAY)
    assert chain(alice.certificate, root.certificate_path).ends == now.replace(microsecond=0) + 5 * DAY
    assert chain(sub.certificate_path).ends == now.replace(microsecond=0) + 10 * DAY


def test_a_ca_that_is_not_trusted_any_more_ends_what_it_signed(ours: LivePki, tmp_path: Path) -> None:
    """Two CAs are trusted at a time, for a change-over; then one."""
    new = LivePki.grow(tmp_path / "new", "new CA")
    both = tmp_path / "both.crt"
    both.write_bytes(ours.ca.read_bytes() + new.ca.read_bytes())
    files = Files(new.certificate("server"), new.key("server"), both)
    during = load_trust(files, files.read(), datetime.now(UTC), demanding=True)
    after = load(new, crl=None)
    for pki, then in ((ours, "CA_NOT_TRUSTED"), (new, "")):
        alice = chain(pki.certificate("alice"), pki.ca)
        assert judged(during, alice) == ""
        assert judged(after, alice) == then


def test_another_ca_of_the_same_name_is_another_ca(ours: LivePki, tmp_path: Path) -> None:
    """It is its key that counts."""
    other = LivePki.grow(tmp_path / "other")
    assert judged(load(ours, crl=None), chain(other.certificate("alice"), other.ca)) == "CA_NOT_TRUSTED"


# ---- with one


def test_who_is_on_the_list_is_refused(ours: LivePki) -> None:
    """And nobody else."""
    ours.revoke("rita")
    trust = load(ours, crl=ours.crl)
    assert judged(trust, chain(ours.certificate("rita"), ours.ca)) == "CERTIFICATE_REVOKED"
    assert judged(trust, chain(ours.certificate("alice"), ours.ca)) == ""
    assert judged(load(ours, crl=None), chain(ours.certificate("rita"), ours.ca)) == ""


@pytest.mark.parametrize(("demanding", "then"), [(True, "REVOCATION_UNKNOWN"), (False, "")])
def test_a_list_past_its_time(ours: LivePki, demanding: bool, then: str) -> None:
    """It says nothing any more of who is not on it; who is, stays revoked."""
    ours.revoke("rita")
    trust = load(ours, crl=ours.crl, demanding=demanding)
    alice, rita = (chain(ours.certificate(name), ours.ca) for name in ("alice", "rita"))
    assert judged(trust, alice, 0.9 * DAY) == ""
    assert judged(trust, alice, 1.1 * DAY) == then
    assert judged(trust, rita, 1.1 * DAY) == "CERTIFICATE_REVOKED"
    assert (trust.good_until(alice) < alice.ends) == demanding


def test_each_ca_above_the_client_has_its_list(ours: LivePki, tmp_path: Path) -> None:
    """An intermediate CA, which the root revokes, lets nobody in any more; without its own list nobody is known."""
    now = datetime.now(UTC)
    root = Authority.create(tmp_path / "root", now=now, path_length=1)
    sub = create_intermediate(root, tmp_path / "sub", now=now, name="sub")
    pki = LivePki(sub.directory, sub)
    pki.server_again()
    pki.client("alice")
    lists = tmp_path / "lists"

    def trust(*paths: Path, ca: Path = root.certificate_path, demanding: bool = True) -> Trust:
        lists.write_bytes(b"".join(path.read_bytes() for path in paths))
        files = Files(pki.certificate("server"), pki.key("server"), ca, None, lists)
        return load_trust(files, files.read(), now, demanding=demanding)

    of_root, of_sub = make_crl(root, now=now).path, make_crl(sub, now=now).path
    alice = chain(pki.certificate("alice"), root.certificate_path)
    assert len(alice.issued) == 2
    assert judged(trust(of_root, of_sub), alice) == ""
    assert judged(trust(of_root), alice) == "REVOCATION_UNKNOWN"
    assert judged(trust(of_root, demanding=False), alice) == ""
    with pytest.raises(CredentialsError, match=r"no revocation list that the CA 'CN=sub' in .* has signed"):
        trust(of_root, ca=sub.certificate_path)  # it is known at once, as its certificate is there
    revoke(root.directory, by_name(root.directory, "sub", now), Reason.CA_COMPROMISE, now)
    make_crl(root, now=now)
    assert judged(trust(of_root, of_sub), alice) == "CERTIFICATE_REVOKED"


@pytest.mark.parametrize("demanding", [True, False])
def test_an_older_list_of_an_intermediate_ca_is_not_taken(ours: LivePki, tmp_path: Path, demanding: bool) -> None:
    """Though its certificate is in no file of ours: a client has brought it."""
    now = datetime.now(UTC)
    root = Authority.create(tmp_path / "root", now=now, path_length=1)
    sub = create_intermediate(root, tmp_path / "sub", now=now, name="sub")
    pki = LivePki(sub.directory, sub)
    pki.client("alice")
    of_root, old = make_crl(root, now=now).path.read_bytes(), make_crl(sub, now=now).path.read_bytes()
    pki.revoke("alice")
    lists = tmp_path / "lists"
    lists.write_bytes(of_root + pki.crl.read_bytes())
    files = Files(ours.certificate("server"), ours.key("server"), root.certificate_path, None, lists)
    in_force = load_trust(files, files.read(), datetime.now(UTC), demanding=demanding)
    assert judged(in_force, chain(pki.certificate("alice"), root.certificate_path)) == "CERTIFICATE_REVOKED"
    lists.write_bytes(of_root + old)
    with pytest.raises(CredentialsError, match="list of the CA 'CN=sub' has the number"):
        load_trust(files, files.read(), datetime.now(UTC), demanding=demanding, before=in_force)


# ---- lists that cannot be used


def test_a_foreign_list_says_nothing_of_ours(ours: LivePki, tmp_path: Path) -> None:
    """Not even one of a CA with the same name: it refuses nobody, and vouches for nobody."""
    other = LivePki.grow(tmp_path / "other")
    with pytest.raises(CredentialsError, match=r"has no revocation list that the CA 'CN=live CA' in .* has signed"):
        load(ours, crl=other.crl)
    trust = load(ours, crl=other.crl, demanding=False)
    assert len(trust.gaps) == 1
    assert judged(trust, chain(ours.certificate("alice"), ours.ca)) == ""


@pytest.mark.parametrize("made", [-10 * DAY, 10 * DAY], ids=["stale", "of the future"])
def test_a_list_of_another_time(ours: LivePki, made: timedelta) -> None:
    """Is not begun with, unless the operator said so; then it still revokes."""
    now = datetime.now(UTC)
    revoke(ours.directory, by_name(ours.directory, "rita", now), Reason.KEY_COMPROMISE, now)
    ours.sign_list(now=now + made)
    with pytest.raises(CredentialsError, match="and not now; have a new one made"):
        load(ours, crl=ours.crl)
    trust = load(ours, crl=ours.crl, demanding=False)
    assert len(trust.gaps) == 1
    assert judged(trust, chain(ours.certificate("alice"), ours.ca)) == ""
    assert judged(trust, chain(ours.certificate("rita"), ours.ca)) == "CERTIFICATE_REVOKED"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot read the revocation list .*: No such file"),
        (b"", "holds a revocation list that cannot be read"),
        (b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "holds a revocation list that cannot be read"),
        (b"-----BEGIN X509 CRL-----\n", "is not whole: a PEM block in it has no end"),
        (b"-----BEGIN RSA-----\n-----END RSA-----\n", "holds no revocation list"),
    ],
    ids=["missing", "empty", "garbage", "half written", "something else"],
)
def test_a_list_that_cannot_be_read(ours: LivePki, content: bytes | None, why: str) -> None:
    """Is not begun with, unless the operator said so; and nothing that is in force is given up for it, in any case."""
    good = load(ours, crl=ours.crl)
    ours.crl.unlink()
    if content is not None:
        ours.crl.write_bytes(content)
    with pytest.raises(CredentialsError, match=why):
        load(ours, crl=ours.crl)
    trust = load(ours, crl=ours.crl, demanding=False)
    assert len(trust.gaps) == 1
    assert judged(trust, chain(ours.certificate("alice"), ours.ca)) == ""
    assert load(ours, crl=ours.crl, demanding=False, before=trust).lists is None
    with pytest.raises(CredentialsError, match=why):
        load(ours, crl=ours.crl, demanding=False, before=good)


@pytest.mark.parametrize("demanding", [True, False])
def test_an_older_list_does_not_take_the_place_of_a_newer(ours: LivePki, demanding: bool) -> None:
    """It would bring back whoever was revoked since."""
    old = ours.crl.read_bytes()
    ours.revoke("rita")
    in_force = load(ours, crl=ours.crl)
    ours.crl.write_bytes(old)
    with pytest.raises(CredentialsError, match="an old list would bring back what was revoked since"):
        load(ours, crl=ours.crl, before=in_force, demanding=demanding)
    assert load(ours, crl=ours.crl)  # nobody can know


@pytest.mark.parametrize(
    ("extension", "critical"),
    [
        (x509.DeltaCRLIndicator(1), True),
        (x509.DeltaCRLIndicator(1), False),
        (x509.IssuingDistributionPoint(None, None, True, False, None, False, False), True),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\5\0"), True),
    ],
    ids=["delta", "delta that is not critical", "a part", "who knows"],
)
def test_lists_that_are_not_whole_are_refused(ours: LivePki, extension: x509.ExtensionType, critical: bool) -> None:
    """What is not on them may be revoked all the same."""
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(ours.authority.certificate.subject)
    builder = builder.last_update(now).next_update(now + DAY).add_extension(extension, critical=critical)
    signed = builder.sign(ours.authority.key, hashes.SHA256())
    ours.crl.write_bytes(signed.public_bytes(Encoding.PEM))
    with pytest.raises(CredentialsError, match="is not whole"):
        load(ours, crl=ours.crl)


def test_a_list_that_lacks_its_end_is_missed(ours: LivePki, tmp_path: Path) -> None:
    """Cut within its last line it still has as many beginnings as ends."""
    both = ours.crl.read_bytes() + LivePki.grow(tmp_path / "other", "other").crl.read_bytes()
    ours.crl.write_bytes(both[:-10])
    with pytest.raises(CredentialsError, match="is not whole: half written"):
        load(ours, crl=ours.crl)


def test_a_der_list_is_read_too(ours: LivePki) -> None:
    """As OpenSSL and others write it."""
    ours.revoke("rita")
    crl = x509.load_pem_x509_crl(ours.crl.read_bytes())
    ours.crl.write_bytes(crl.public_bytes(Encoding.DER))
    assert judged(load(ours, crl=ours.crl), chain(ours.certificate("rita"), ours.ca)) == "CERTIFICATE_REVOKED"


def test_a_ca_that_may_not_sign_lists_has_none(ours: LivePki) -> None:
    """Whatever it signed with its key (keyUsage without cRLSign)."""
    ca = ours.authority.certificate
    usage = x509.KeyUsage(False, False, False, False, False, True, False, False, False)
    builder = x509.CertificateBuilder().subject_name(ca.subject).issuer_name(ca.subject).serial_number(1)
    builder = builder.public_key(ca.public_key()).not_valid_before(ca.not_valid_before_utc)
    builder = builder.not_valid_after(ca.not_valid_after_utc).add_extension(usage, critical=True)
    lists = parse_lists(ours.crl.read_bytes(), ours.crl)
    other = Issuer.of(builder.sign(ours.authority.key, hashes.SHA256()))
    assert lists.of(other) is None
    assert other.identity == Issuer.of(ca).identity
    assert lists.of(Issuer.of(ca)) is not None  # whichever of its certificates a client has brought first


@pytest.mark.parametrize("newer_first", [True, False])
def test_of_two_lists_of_a_ca_the_newer_counts(ours: LivePki, tmp_path: Path, newer_first: bool) -> None:
    """Whichever comes first in the file."""
    old = ours.sign_list(now=datetime.now(UTC) - timedelta(hours=1)).read_bytes()
    ours.revoke("rita")
    both = [ours.crl.read_bytes(), old]
    ours.crl.write_bytes(b"".join(both if newer_first else reversed(both)))
    assert judged(load(ours, crl=ours.crl), chain(ours.certificate("rita"), ours.ca)) == "CERTIFICATE_REVOKED"


# ---- the other files


def test_a_ca_that_has_expired_needs_no_list(ours: LivePki, tmp_path: Path) -> None:
    """Nobody comes with it. But one at least has to be good."""
    now = datetime.now(UTC)
    old = Authority.create(tmp_path / "old", now=now, name="old", not_before=now - 9 * DAY, not_after=now - DAY)
    ca = ours.ca.read_bytes()
    ours.ca.write_bytes(old.certificate_path.read_bytes() + ca)
    assert load(ours, crl=ours.crl).gaps == ()
    ours.ca.write_bytes(old.certificate_path.read_bytes())
    with pytest.raises(CredentialsError, match=r"no CA in .* is valid now"):
        load(ours, crl=ours.crl)


def test_a_file_without_end_is_not_read_to_it(ours: LivePki) -> None:
    """Nobody needs a megabyte of CAs."""
    ours.ca.write_bytes(ours.ca.read_bytes() + bytes(1 << 20))
    with pytest.raises(CredentialsError, match="has more than 1048576 bytes"):
        load(ours, crl=None)


def test_a_client_is_no_server(ours: LivePki) -> None:
    """Its certificate was made for something else."""
    files = Files(ours.certificate("alice"), ours.key("alice"), ours.ca)
    with pytest.raises(CredentialsError, match="was not made for a server"):
        load_trust(files, files.read(), datetime.now(UTC), demanding=True)


def test_what_is_wrong_is_told_by_file(ours: LivePki) -> None:
    """A key of another certificate, one that has expired, one that is none: before anything is changed."""
    key, certificate = ours.key("server"), ours.certificate("server")
    whole = certificate.read_bytes()
    key.write_bytes(ours.key("alice").read_bytes())
    with pytest.raises(CredentialsError, match=f"the private key {key} does not belong to the certificate"):
        load(ours, crl=None)
    ours.server_again(not_before=datetime.now(UTC) - 3 * DAY, not_after=datetime.now(UTC) - DAY)
    with pytest.raises(CredentialsError, match=f"the certificate {certificate} is valid from .* and not now"):
        load(ours, crl=None)
    ours.server_again(not_before=datetime.now(UTC) + DAY, not_after=datetime.now(UTC) + 3 * DAY)
    with pytest.raises(CredentialsError, match=f"the certificate {certificate} is valid from .* and not now"):
        load(ours, crl=None)
    certificate.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CredentialsError, match=f"the certificate {certificate} is not whole"):
        load(ours, crl=None)
    ours.ca.chmod(0o644)
    ours.ca.write_bytes(b"")
    ours.server_again()
    with pytest.raises(CredentialsError, match=f"the CA file {ours.ca} holds no PEM certificate"):
        load(ours, crl=None)


def test_what_everybody_can_write_is_not_trusted(ours: LivePki) -> None:
    """Neither a file nor its directory."""
    ours.ca.chmod(0o646)
    with pytest.raises(CredentialsError, match=f"everybody can write the CA certificate {ours.ca}"):
        load(ours, crl=None)
    ours.ca.chmod(0o644)
    ours.directory.chmod(0o707)
    named = f"where the certificate {ours.certificate('server')} is"  # by which the setting is found
    with pytest.raises(CredentialsError, match=f"everybody can write in {ours.directory}, {named}"):
        load(ours, crl=None)
    ours.directory.chmod(0o1707)  # as /tmp: nobody can replace what is another's
    assert load(ours, crl=None)


@needs_root
@pytest.mark.parametrize(
    ("mode", "who", "remedy"),
    [(0o775, "the group NOBODYS", "g-w"), (0o770, "the group NOBODYS", "g-w"), (0o777, "everybody", "go-w")],
)
def test_a_directory_that_a_group_can_write_is_not_trusted(ours: LivePki, mode: int, who: str, remedy: str) -> None:
    """It is named, with what to do; so is a file. A group that has nobody but the owner in it is no other."""
    nobodys = grp.getgrgid(NOBODY.pw_gid).gr_name
    os.chown(ours.directory, -1, NOBODY.pw_gid)
    ours.directory.chmod(mode)
    told = f"{who.replace('NOBODYS', nobodys)} can write in {ours.directory}, where the .* is: chmod {remedy} it"
    with pytest.raises(CredentialsError, match=told):
        load(ours, crl=None)
    ours.directory.chmod(mode | 0o1000)  # nobody can replace what is another's
    assert load(ours, crl=None)
    ours.directory.chmod(mode & 0o755)
    os.chown(ours.ca, -1, NOBODY.pw_gid)
    ours.ca.chmod(0o664)
    with pytest.raises(CredentialsError, match=f"the group {nobodys} can write the CA certificate .*: chmod g-w it"):
        load(ours, crl=None)
    os.chown(ours.ca, -1, 0)
    os.chown(ours.directory, -1, 0)
    ours.directory.chmod(0o770)
    assert load(ours, crl=None)


@needs_root
@pytest.mark.parametrize("link", [False, True])
def test_what_somebody_else_put_there_is_not_trusted(ours: LivePki, link: bool) -> None:
    """Where everybody can put something, whoever comes first has the name: a file, or a link."""
    ours.directory.chmod(0o1707)
    if link:
        kept = ours.ca.rename(ours.directory.parent / "elsewhere.crt")
        ours.ca.symlink_to(kept)
        assert load(ours, crl=None)
    os.chown(ours.ca, NOBODY.pw_uid, -1, follow_symlinks=False)
    with pytest.raises(CredentialsError, match=rf"the CA certificate {ours.ca} is user {NOBODY.pw_uid}'s"):
        load(ours, crl=None)
    ours.directory.chmod(0o700)
    assert load(ours, crl=None)
