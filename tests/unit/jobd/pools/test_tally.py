"""How many jobs each principal has in a pool."""

from __future__ import annotations

from jobd.pools.etcd.codec import encode
from jobd.pools.etcd.keys import Keys
from jobd.pools.etcd.records import JobState, Phase
from jobd.pools.etcd.steps import Found
from jobd.pools.etcd.tally import Tally
from jobd.pools.etcd.transaction import KeyValue

KEYS = Keys("p")
ONE, TWO = (f"0f9e8d7c-0000-4000-8000-00000000000{n}" for n in (1, 2))


def heard(tally: Tally, job: str, phase: Phase | None, by: str = "ann") -> None:
    key = KEYS.state(job)
    at = KeyValue(key, encode(JobState(phase=phase or Phase.PENDING, by=by)), 1, 2)
    tally.heard(key, Found.of(KEYS, at) if phase else None)


def test_a_job_that_was_heard_of_counts_though_its_sender_does_not_know_of_it() -> None:
    """The answer was lost, or whoever asked has gone, after it was recorded."""
    tally = Tally(KEYS)
    tally.brought(ONE, "ann")
    heard(tally, ONE, Phase.PENDING)
    tally.refused(ONE)
    assert tally.of("ann") == 1
    heard(tally, ONE, Phase.ENDED)
    assert (tally.of("ann"), tally._unheard) == (0, set())


def test_a_job_counts_from_when_it_is_brought_until_it_has_ended() -> None:
    """Once, whoever says so how often."""
    tally, counts = Tally(KEYS), []
    tally.brought(ONE, "ann")
    counts.append(tally.of("ann"))
    for phase in (Phase.PENDING, Phase.ASSIGNED, Phase.CLAIMED):
        heard(tally, ONE, phase)
        counts.append(tally.of("ann"))
    heard(tally, TWO, Phase.PENDING, by="bob")
    heard(tally, ONE, Phase.ENDED)
    assert counts == [1, 1, 1, 1]
    assert (tally.of("ann"), tally.of("bob"), tally.of("carl")) == (0, 1, 0)


def test_one_that_was_not_recorded_does_not_count() -> None:
    """But if it was all the same, it does from when that is heard of; until its record is gone."""
    tally = Tally(KEYS)
    tally.brought(ONE, "ann")
    tally.refused(ONE)
    assert tally.of("ann") == 0
    heard(tally, ONE, Phase.PENDING)
    assert tally.of("ann") == 1
    heard(tally, ONE, None)
    assert tally.of("ann") == 0


def test_nothing_is_kept_of_who_has_no_jobs() -> None:
    """However many principals there have been."""
    tally = Tally(KEYS)
    for number in range(100):
        heard(tally, ONE, Phase.PENDING, by=f"p{number}")
    heard(tally, ONE, Phase.ENDED)
    assert (len(tally._counts), len(tally._jobs)) == (0, 0)
