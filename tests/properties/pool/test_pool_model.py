"""The protocol of a pool, searched: two brokers, two workers, everything that may happen in every order, up to so many
faults. The steps are those of jobd/pools/etcd themselves.

What must never happen: a job is started twice, or after a client was told that it is stopped; an acknowledged job is
gone; one that is claimed is placed again; a claim is made in a session that is over, or by a worker that is drained; an
end changes. And when everybody has come back, etcd says what has really happened, and there is nothing left over.

With JOBD_MODEL_EXAMPLES (``nox -s model``) more goes wrong at once; that takes minutes.
"""

from __future__ import annotations

import os
from typing import Final

import pytest

from tests.properties.pool.moves import Moves
from tests.properties.pool.mutants import MUTANTS
from tests.properties.pool.rules import beginning
from tests.properties.pool.search import search
from tests.properties.pool.world import Budget

FEW: Final = frozenset({"submit", "settle", "tell"})
"""What is sent at once. It compares the revision of all that it rests on, as what is not in it does too."""
BUDGETS: Final = [
    Budget(expiries=1, stops=1),
    Budget(expiries=1, doubts=1),
    Budget(expiries=1, crashes=1),
    Budget(expiries=1, forgets=1),
    Budget(expiries=1, forgets=1, retries=1),
    Budget(crashes=1, doubts=1),
    Budget(doubts=1, reboots=1),
    Budget(doubts=1, stops=1),
    Budget(doubts=1, drains=1, undrains=1),
    Budget(reboots=1, retries=1),
]
DEEP: Final = [
    Budget(crashes=1, reboots=1),
    Budget(expiries=1, crashes=1, doubts=1),
    Budget(expiries=1, stops=1, doubts=1, crashes=1),
    Budget(expiries=2, doubts=1),
    Budget(expiries=2, crashes=1),
    Budget(expiries=1, crashes=1, reboots=1),
    Budget(expiries=1, forgets=1, doubts=1, crashes=1),
    Budget(expiries=1, forgets=1, reboots=1, retries=1),
    Budget(drains=1, undrains=1, expiries=1, doubts=1),
]
DEEPER: Final = "JOBD_MODEL_EXAMPLES" in os.environ


def _within(budget: Budget, other: Budget) -> bool:
    """What can go wrong with the first can go wrong with the second."""
    return budget.retries == other.retries and all(a <= b for a, b in zip(budget, other, strict=True))


def name_of(budget: Budget) -> str:
    return ",".join(f"{count} {name}" for name, count in budget._asdict().items() if count)


@pytest.mark.parametrize("budget", BUDGETS + DEEP * DEEPER, ids=name_of)
def test_whatever_happens_in_whatever_order(budget: Budget) -> None:
    """Each rule holds in each world that can come about."""
    found = search(beginning(budget), Moves(at_once=FEW))
    assert found.wrong is None
    assert found.ends


@pytest.mark.parametrize("budget", [Budget(doubts=1), *[Budget(expiries=1, doubts=1), Budget(expiries=2)] * DEEPER])
def test_whatever_is_sent_late(budget: Budget) -> None:
    """The same, when everything may be sent long after what it rests on was read."""
    assert search(beginning(budget), Moves()).wrong is None


@pytest.mark.parametrize("budget", [Budget(), *[Budget(stops=1), Budget(expiries=1)] * DEEPER], ids=name_of)
def test_two_jobs(budget: Budget) -> None:
    """Neither is in the other's way."""
    assert search(beginning(budget, jobs=2), Moves(at_once=FEW)).wrong is None


@pytest.mark.parametrize("name", MUTANTS)
def test_a_step_that_lacks_something_is_caught(name: str) -> None:
    """The search would find it if somebody wrote it so."""
    rules, budget = MUTANTS[name]
    assert search(beginning(budget), Moves(rules, at_once=FEW)).wrong is not None
    assert any(_within(budget, other) for other in BUDGETS), "the steps as they are do not do that"


def test_what_was_found_has_its_way_told() -> None:
    """Whoever has broken something sees how it comes about."""
    rules, budget = MUTANTS["gone places again what was claimed"]
    found = search(beginning(budget), Moves(rules, at_once=FEW))
    assert found.wrong is not None
    first, *way = found.wrong.splitlines()
    assert first == "a claimed job was placed again"
    assert "  the lease of w1 ends" in way


def test_more_worlds_than_there_may_be_are_an_error() -> None:
    """And not a search that ends early and says that all is well."""
    with pytest.raises(OverflowError):
        search(beginning(Budget(expiries=1)), Moves(at_once=FEW), most=10)
