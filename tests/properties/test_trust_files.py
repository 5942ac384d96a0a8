"""Files that are damaged anywhere, in any way: judged as good or refused by name, and never met by another error."""

from __future__ import annotations

import base64
import textwrap
import warnings
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from api.errors import CredentialsError
from jobd.trust.chain import chain_of
from jobd.trust.files import Files, Snapshot
from jobd.trust.trust import load_trust
from tests.support.live_pki import LivePki

WHICH = ("certificate", "key", "ca", "crl")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> LivePki:
    return LivePki.grow(tmp_path_factory.mktemp("pki") / "pki")


def changed(data: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    """The same with some bytes overwritten, and some of the end left out."""
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    return bytes(damaged[: len(damaged) - cut % len(damaged)] if cut else damaged)


def inside(pem: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    """Damage of what is in the first PEM block; the block itself is whole."""
    lines = pem.decode().splitlines()
    end = next(number for number, line in enumerate(lines) if line.startswith("-----END"))
    der = changed(base64.b64decode("".join(lines[1:end])), changes, cut)
    body = textwrap.fill(base64.b64encode(der).decode(), 64)
    return "\n".join([lines[0], body, *lines[end:], ""]).encode()


CHANGES = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4)


@settings(max_examples=300, deadline=None)
@given(
    which=st.sampled_from(WHICH),
    damage=st.sampled_from([changed, inside]),
    changes=CHANGES,
    cut=st.integers(0, 500) | st.just(0),
    demanding=st.booleans(),
)
def test_damage_is_refused_by_name_or_does_no_harm(
    ours: LivePki, which: str, damage: object, changes: list[tuple[int, int]], cut: int, demanding: bool
) -> None:
    """Whatever is wrong is a CredentialsError; what is taken judges a good client without an error."""
    assert callable(damage)
    files = Files(ours.certificate("server"), ours.key("server"), ours.ca, None, ours.crl)
    path = getattr(files, which)
    content = {each: each.read_bytes() for each in files.all}
    content[path] = damage(content[path], changes, cut)
    alice = chain_of(tuple(map(der_of, (ours.certificate("alice"), ours.ca))))
    refused = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the parser takes now, and will not some day
        try:
            trust = load_trust(files, Snapshot(content, {}), datetime.now(UTC), demanding=demanding)
        except CredentialsError as exc:
            refused = str(exc)
        else:
            trust.judge(alice, datetime.now(UTC))
            trust.good_until(alice)
    assert not refused or str(path) in refused


def der_of(path: Path) -> bytes:
    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)
