"""The table of a job's life."""

from __future__ import annotations

import itertools

import pytest

from jobd.worker.errors import InvalidTransitionError
from jobd.worker.lifecycle import LIVE, TRANSITIONS, Event, State, after


def test_terminal_states_have_no_way_out() -> None:
    """A job that has ended stays ended."""
    assert not {state for state, _ in TRANSITIONS if state.terminal}


def test_every_state_can_be_reached_from_pending() -> None:
    """No state stands in the table for nothing."""
    reached = {State.PENDING}
    for _ in State:
        reached |= {target for (source, _), target in TRANSITIONS.items() if source in reached}
    assert reached == set(State)


def test_every_live_state_can_end() -> None:
    """Nothing can be stuck."""
    for state in LIVE:
        assert any(target.terminal for (source, _), target in TRANSITIONS.items() if source is state)


@pytest.mark.parametrize(("state", "event"), [p for p in itertools.product(State, Event) if p not in TRANSITIONS])
def test_what_is_not_in_the_table_cannot_happen(state: State, event: Event) -> None:
    """It is an error, not a quiet change."""
    with pytest.raises(InvalidTransitionError):
        after(state, event)
