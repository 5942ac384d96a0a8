"""What jobs may use: defaults and ceilings, for everyone and for some."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobd.worker.containment import Limits
from jobd.worker.errors import InvalidSpecError
from jobd.worker.policy import Bounds, Caller, LimitPolicy

EVERYONE = Bounds(Limits(memory=100, timeout=5.0), Limits(memory=1000, processes=10))
ALICE = Bounds(Limits(memory=200), Limits(memory=5000))
POLICY = LimitPolicy(EVERYONE, {"alice": ALICE})


def test_a_default_holds_for_whoever_does_not_say() -> None:
    """And a ceiling, where there is no default; a limit that nobody speaks of is none."""
    assert POLICY.apply(Limits(), Caller("bob", ["writer"])) == Limits(memory=100, timeout=5.0, processes=10)


def test_what_is_asked_for_holds_up_to_the_ceiling() -> None:
    """Less than the default, or more."""
    assert POLICY.apply(Limits(memory=50), Caller("bob", ["writer"])).memory == 50
    assert POLICY.apply(Limits(memory=1000, timeout=99), Caller("bob", ["writer"])) == Limits(
        memory=1000, timeout=99, processes=10
    )


def test_what_is_beyond_a_ceiling_is_refused_by_name() -> None:
    """Each of them, with what may be asked for."""
    with pytest.raises(InvalidSpecError) as caught:
        POLICY.apply(Limits(memory=1001, processes=11, timeout=99), Caller("bob", ["writer"]))
    assert {each.field: each.description for each in caught.value.violations} == {
        "spec.limits.memory_bytes": "is 1001, and bob may ask for 1000",
        "spec.limits.processes": "is 11, and bob may ask for 10",
    }


@pytest.mark.parametrize(("asked", "told"), [(2**40 + 1, "is 1099511627777,"), (1234567890, "is 1234567890,")])
def test_a_large_number_is_told_in_full(asked: int, told: str) -> None:
    """To the last digit: it is compared with a ceiling."""
    with pytest.raises(InvalidSpecError) as caught:
        POLICY.apply(Limits(memory=asked), Caller("bob", ["writer"]))
    assert caught.value.violations[0].description.startswith(told)


def test_a_principal_has_bounds_of_its_own_over_those_of_everyone() -> None:
    """What they do not speak of is as for everyone."""
    assert POLICY.apply(Limits(), Caller("alice", ["writer"])) == Limits(memory=200, timeout=5.0, processes=10)
    assert POLICY.apply(Limits(memory=5000), Caller("alice", ["writer"])).memory == 5000
    with pytest.raises(InvalidSpecError, match="alice may ask for 10"):
        POLICY.apply(Limits(processes=11), Caller("alice", ["writer"]))


def test_a_role_has_bounds_between_those_of_everyone_and_of_a_principal() -> None:
    """For a principal that has the role; what it does not speak of is as for everyone."""
    writers = Bounds(Limits(memory=300), Limits(processes=20, memory=3000))
    policy = LimitPolicy(EVERYONE, {"alice": ALICE}, {"writer": writers})
    assert policy.apply(Limits(), Caller("bob", ["writer"])) == Limits(memory=300, timeout=5.0, processes=20)
    assert policy.apply(Limits(), Caller("alice", ["writer"])) == Limits(memory=200, timeout=5.0, processes=20)
    assert policy.apply(Limits(memory=5000), Caller("alice", ["writer"])).memory == 5000
    with pytest.raises(InvalidSpecError, match="bob may ask for 3000"):
        policy.apply(Limits(memory=3001), Caller("bob", ["writer"]))
    assert policy.apply(Limits(), Caller("bob", ["reader"])) == Limits(memory=100, timeout=5.0, processes=10)


@given(*[st.integers(0, 20)] * 3)
def test_no_job_has_more_than_the_ceiling(asked: int, default: int, ceiling: int) -> None:
    """Whatever it asks for, and whatever the default is."""
    policy = LimitPolicy(Bounds(Limits(memory=default), Limits(memory=ceiling)))
    try:
        holds = policy.apply(Limits(memory=asked), Caller("bob", ["writer"])).memory
    except InvalidSpecError:
        assert ceiling
        assert asked > ceiling
        return
    assert not ceiling or 0 < holds <= ceiling
    assert holds in {asked or default, ceiling}
