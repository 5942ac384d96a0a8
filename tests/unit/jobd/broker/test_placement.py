"""Which worker a job goes to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jobd.broker.placement import Load, choose

loads = st.lists(
    st.builds(Load, st.uuids().map(str), st.integers(1, 10), st.integers(0, 10)), max_size=6, unique_by=lambda w: w.name
)


@given(loads)
def test_a_job_goes_to_the_least_loaded_worker_that_is_free(workers: list[Load]) -> None:
    """Never to a full one; to none only when all are full."""
    name = choose(workers)
    free = [worker for worker in workers if worker.running < worker.slots]
    if name is None:
        assert not free
        return
    [chosen] = [worker for worker in free if worker.name == name]
    assert all(chosen.running / chosen.slots <= worker.running / worker.slots for worker in free)


def test_equals_are_taken_in_order() -> None:
    """So that placement can be foretold."""
    assert choose([Load("a", 2, 1), Load("b", 2, 1)]) == "a"
