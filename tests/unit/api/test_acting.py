"""For whom a broker's call is made, in metadata and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.acting import NAME, ROLES, Acting, acting_of, metadata_of
from api.errors import IdentityError
from api.identity import MAX_NAME, check_name
from api.roles import Role

BOTH = frozenset({Role.READER, Role.WRITER})


def can_be_a_name(text: str) -> bool:
    try:
        return bool(check_name(text))
    except IdentityError:
        return False


@given(st.text(min_size=1, max_size=MAX_NAME).filter(can_be_a_name), st.sets(st.sampled_from(sorted(BOTH)), min_size=1))
def test_whoever_can_be_a_principal_comes_through(name: str, roles: set[Role]) -> None:
    """Every name, in printable ASCII on the way; every set of roles. Who has none is handed on nowhere."""
    acting = Acting(name, frozenset(roles))
    metadata = metadata_of(acting)
    assert all(value.isascii() and value.isprintable() and " " not in value for _, value in metadata)
    assert acting_of([("x-other", "1"), *metadata]) == acting


def test_without_the_metadata_nobody_is_acted_for() -> None:
    """Whoever calls, calls for themselves."""
    assert acting_of([("traceparent", "00-1"), ("x-bin", b"1")]) is None


@pytest.mark.parametrize(
    "metadata",
    [
        [(NAME, "alice")],
        [(ROLES, "writer")],
        [(NAME, "alice"), (NAME, "bob"), (ROLES, "writer")],
        [(NAME, "alice"), (ROLES, "reader"), (ROLES, "writer")],
        [(NAME, ""), (ROLES, "writer")],
        [(NAME, "%ff"), (ROLES, "writer")],
        [(NAME, "a%0ab"), (ROLES, "writer")],
        [(NAME, "a" * 65), (ROLES, "writer")],
        [(NAME, "alice"), (ROLES, "broker")],
        [(NAME, "alice"), (ROLES, "writer,broker")],
        [(NAME, "alice"), (ROLES, "boss")],
        [(NAME, "alice"), (ROLES, "")],
        [(NAME, "alice"), (ROLES, b"writer")],
    ],
)
def test_what_is_not_whole_is_an_error(metadata: list[tuple[str, str | bytes]]) -> None:
    """It is never taken for a call of the broker's own."""
    with pytest.raises(IdentityError):
        acting_of(metadata)
