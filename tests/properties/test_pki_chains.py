"""Which chains of our certificates verify and which do not: a model against ``cryptography.x509.verification``.

Chains are drawn whole and broken: of any depth and path lengths, with a certificate that has ended, is missing, is
signed by another key of the same name, or was issued by a leaf; used for the right purpose and host, or the wrong ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from cryptography import x509
from cryptography.x509 import verification
from hypothesis import given, settings
from hypothesis import strategies as st

from api.identity import Role
from pki.certificates import key_identifier, self_signed, sign_certificate
from pki.hosts import parse_hosts
from pki.keys import KeyKind, SigningKey, new_key
from pki.profiles import (
    CLIENT,
    SERVER,
    Extension,
    Profile,
    ca_extensions,
    leaf_extensions,
    principal_subject,
    server_subject,
)
from pki.validity import Validity

if not hasattr(verification, "ExtensionPolicy"):
    pytest.skip("this cryptography has no policies for extensions (they came with 45)", allow_module_level=True)

NOW: Final = datetime(2026, 6, 1, tzinfo=UTC)
DAY: Final = timedelta(days=1)
HOSTS: Final = parse_hosts(["jobs.example.com", "127.0.0.1"])
GOOD: Final = Validity(NOW - DAY, NOW + DAY)
KEYS: Final = [new_key(kind) for kind in (KeyKind.P256, KeyKind.P384) for _ in range(6)]
"""Drawn from instead of made anew: what is tested is not how keys are made."""


@dataclass(frozen=True)
class Plan:
    """A chain to be made.

    Attributes:
        lengths: the path length of each CA, the root's first.
        profile: of the leaf.
        ended: which certificate has ended (0 is the root, the last the leaf); None if all are good.
        missing: which intermediate CA's certificate is not sent.
        foreign: which certificate is signed by another key than the one above it has.
        by_leaf: the leaf signs one more leaf, and that one is shown.
        keys: for each certificate.
    """

    lengths: list[int]
    profile: Profile
    ended: int | None
    missing: int | None
    foreign: int | None
    by_leaf: bool
    keys: list[SigningKey]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    lengths = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    # Most lengths fit, so that about half of the chains are good.
    if draw(st.booleans()):
        lengths = list(range(len(lengths) - 1, -1, -1))
    depth = len(lengths)
    sound = draw(st.booleans())
    some = st.none() if sound else st.none() | st.integers(0, depth)
    missing = st.none() if sound or depth == 1 else st.none() | st.integers(1, depth - 1)
    return Plan(
        lengths,
        draw(st.sampled_from([SERVER, CLIENT])),
        draw(some),
        draw(missing),
        draw(some.filter(lambda place: place != 0)),
        draw(st.just(value=False) if sound else st.booleans()),
        draw(st.lists(st.sampled_from(KEYS), min_size=depth + 2, max_size=depth + 2, unique=True)),
    )


@dataclass(frozen=True)
class Shown:
    """What a peer shows, and what the other side trusts."""

    root: x509.Certificate
    intermediates: list[x509.Certificate]
    leaf: x509.Certificate


def make(plan: Plan) -> Shown:
    """Make the chain of a plan."""
    cas: list[x509.Certificate] = []
    for place, length in enumerate(plan.lengths):
        name, key = principal_subject(f"ca {place}"), plan.keys[place]
        if place == 0:
            cas.append(self_signed(key, name, _period(plan, 0), length))
            continue
        extensions = ca_extensions(key.public_key(), key_identifier(cas[-1]), length)
        cas.append(_sign(plan, place, cas[-1], name, key, extensions))
    depth = len(cas)
    leaf = _leaf(plan, depth, cas[-1], plan.keys[depth])
    sent = [ca for place, ca in enumerate(cas) if place not in (0, plan.missing)]
    if not plan.by_leaf:
        return Shown(cas[0], sent, leaf)
    below = sign_certificate(
        plan.keys[depth],
        leaf.subject,
        _subject(plan.profile),
        plan.keys[depth + 1].public_key(),
        GOOD,
        leaf_extensions(plan.profile, plan.keys[depth + 1].public_key(), key_identifier(leaf), _hosts(plan.profile)),
    )
    return Shown(cas[0], [*sent, leaf], below)


def is_good(plan: Plan) -> bool:
    """RFC 5280, section 6, for these chains."""
    depth = len(plan.lengths)
    fits = all(depth - 1 - place <= length for place, length in enumerate(plan.lengths))
    return fits and plan.ended is None and plan.missing is None and plan.foreign is None and not plan.by_leaf


def accepts(shown: Shown, profile: Profile, host: str | None = "jobs.example.com") -> bool:
    """What the library says."""
    policy = verification.PolicyBuilder().store(verification.Store([shown.root])).time(NOW)
    ca_policy = verification.ExtensionPolicy.webpki_defaults_ca()
    try:
        if profile is SERVER:
            assert host
            name = x509.DNSName(host)
            policy.build_server_verifier(name).verify(shown.leaf, shown.intermediates)
        else:
            # A client of ours is named by its subject, where the web wants an alternative name.
            ee_policy = verification.ExtensionPolicy.webpki_defaults_ee().may_be_present(
                x509.SubjectAlternativeName, verification.Criticality.AGNOSTIC, None
            )
            policy = policy.extension_policies(ca_policy=ca_policy, ee_policy=ee_policy)
            policy.build_client_verifier().verify(shown.leaf, shown.intermediates)
    except verification.VerificationError:
        return False
    return True


@settings(max_examples=200, deadline=None)
@given(plans())
def test_the_library_agrees_with_the_model(plan: Plan) -> None:
    """A chain is accepted if and only if nothing is wrong with it."""
    assert accepts(make(plan), plan.profile) == is_good(plan)


@settings(max_examples=50, deadline=None)
@given(plans())
def test_a_leaf_is_for_one_side_only(plan: Plan) -> None:
    """No chain, whole or broken, is good for the other purpose."""
    other = CLIENT if plan.profile is SERVER else SERVER
    assert not accepts(make(plan), other)


@settings(max_examples=50, deadline=None)
@given(plans(), st.sampled_from(["example.com", "a.jobs.example.com", "jobs.example.org", "localhost"]))
def test_a_server_is_good_for_its_hosts_only(plan: Plan, host: str) -> None:
    """No chain is good for a host that the leaf does not name."""
    if plan.profile is SERVER:
        assert not accepts(make(plan), SERVER, host)


def _period(plan: Plan, place: int) -> Validity:
    return Validity(NOW - 2 * DAY, NOW - DAY) if plan.ended == place else GOOD


def _sign(
    plan: Plan,
    place: int,
    issuer: x509.Certificate,
    subject: x509.Name,
    key: SigningKey,
    extensions: list[Extension],
) -> x509.Certificate:
    signer = plan.keys[-1] if plan.foreign == place else plan.keys[place - 1]
    return sign_certificate(signer, issuer.subject, subject, key.public_key(), _period(plan, place), extensions)


def _leaf(plan: Plan, place: int, issuer: x509.Certificate, key: SigningKey) -> x509.Certificate:
    extensions = leaf_extensions(plan.profile, key.public_key(), key_identifier(issuer), _hosts(plan.profile))
    return _sign(plan, place, issuer, _subject(plan.profile), key, extensions)


def _subject(profile: Profile) -> x509.Name:
    return server_subject(HOSTS) if profile is SERVER else principal_subject("alice", [Role.WRITER])


def _hosts(profile: Profile) -> tuple[x509.DNSName | x509.IPAddress, ...]:
    return HOSTS if profile is SERVER else ()
