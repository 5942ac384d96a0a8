"""What jobs may use: defaults and ceilings, for everyone and for some."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobd.worker.containment import Limits
from jobd.worker.errors import InvalidSpecError
from jobd.worker.policy import Bounds, LimitPolicy

EVERYONE = Bounds(Limits(memory=100, timeout=5.0), Limits(memory=1000, processes=10))
ALICE = Bounds(Limits(memory=200), Limits(memory=5000)).over(EVERYONE)
POLICY = LimitPolicy(EVERYONE, {"alice": ALICE})


def test_a_default_holds_for_whoever_does_not_say() -> None:
    """And a ceiling, where there is no default; a limit that nobody speaks of is none."""
    assert POLICY.apply(Limits(), "bob") == Limits(memory=100, timeout=5.0, processes=10)


def test_what_is_asked_for_holds_up_to_the_ceiling() -> None:
    """Less than the default, or more."""
    assert POLICY.apply(Limits(memory=50), "bob").memory == 50
    assert POLICY.apply(Limits(memory=1000, timeout=99), "bob") == Limits(memory=1000, timeout=99, processes=10)


def test_what_is_beyond_a_ceiling_is_refused_by_name() -> None:
    """Each of them, with what may be asked for."""
    with pytest.raises(InvalidSpecError) as caught:
        POLICY.apply(Limits(memory=1001, processes=11, timeout=99), "bob")
    assert {each.field: each.description for each in caught.value.violations} == {
        "spec.limits.memory_bytes": "is 1001, and bob may ask for 1000",
        "spec.limits.processes": "is 11, and bob may ask for 10",
    }


def test_a_principal_has_bounds_of_its_own_over_those_of_everyone() -> None:
    """What they do not speak of is as for everyone."""
    assert POLICY.apply(Limits(), "alice") == Limits(memory=200, timeout=5.0, processes=10)
    assert POLICY.apply(Limits(memory=5000), "alice").memory == 5000
    with pytest.raises(InvalidSpecError, match="alice may ask for 10"):
        POLICY.apply(Limits(processes=11), "alice")


@given(*[st.integers(0, 20)] * 3)
def test_no_job_has_more_than_the_ceiling(asked: int, default: int, ceiling: int) -> None:
    """Whatever it asks for, and whatever the default is."""
    policy = LimitPolicy(Bounds(Limits(memory=default), Limits(memory=ceiling)))
    try:
        holds = policy.apply(Limits(memory=asked), "bob").memory
    except InvalidSpecError:
        assert ceiling
        assert asked > ceiling
        return
    assert not ceiling or 0 < holds <= ceiling
    assert holds in {asked or default, ceiling}
