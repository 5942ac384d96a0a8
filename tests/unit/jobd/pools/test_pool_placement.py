"""Which worker of the pool each waiting job goes to, and why the others wait."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobd.pools.etcd.placement import Candidate, Waiting, Wish, placements, why
from jobd.pools.etcd.records import Order, Session
from jobd.worker.containment import Limits
from jobd.worker.facts import spec_facts
from jobd.worker.isolation import Isolation
from jobd.worker.job import JobSpec
from tests.support.pool_steps import CHECKED

ANYWHERE = Wish()
GPU = Wish(labels=(("gpu", "a100"),))


def worker(name: str, slots: int = 2, taken: int = 0, *, drained: bool = False, **session: object) -> Candidate:
    made = Session(uid="u", instance="i", address="h:1", slots=slots, **session)  # type: ignore[arg-type]
    return Candidate(name, made, taken, drained)


def jobs(*wishes: Wish) -> list[Waiting]:
    return [Waiting(f"job{n}", wish) for n, wish in enumerate(wishes)]


def test_a_wish_is_what_a_job_needs_of_its_worker() -> None:
    """Of its spec: the limits that it takes a containment to hold, and its isolation."""
    labels = {"b": "2", "a": "1"}
    limits, isolation = Limits(memory=9000, timeout=3), Isolation(no_network=True)
    spec = JobSpec(("x",), limits=limits, isolation=isolation, worker_labels=labels)
    order = Order(spec=spec_facts(spec), principal="p", created_at=1)
    assert Wish.of(order) == Wish((("a", "1"), ("b", "2")), frozenset({"memory"}), ("no_network",))


def test_a_job_overtakes_only_where_the_other_could_not_go() -> None:
    """The first one waits for a GPU and holds up nobody; the second one gets the one slot before the third."""
    found = placements(jobs(GPU, ANYWHERE, ANYWHERE), [worker("w1", slots=1)])
    assert found == [("job1", "w1")]


def test_the_least_loaded_comes_first() -> None:
    """And each job that is placed loads it."""
    found = placements(jobs(*[ANYWHERE] * 4), [worker("w1", 4, 2), worker("w2", 4, 0)])
    assert [name for _, name in found[:2]] == ["w2", "w2"]
    assert sorted(name for _, name in found[2:]) == ["w1", "w2"]


def test_brokers_choose_the_same_for_the_same_job_and_spread_the_jobs() -> None:
    """Though they do not know of each other, and have the workers in another order."""
    many = [worker(f"w{n}", 1000) for n in range(4)]
    first = [placements([each], many) for each in jobs(*[ANYWHERE] * 40)]
    second = [placements([each], many[::-1]) for each in jobs(*[ANYWHERE] * 40)]
    assert first == second
    assert len({name for [(_, name)] in first}) == 4


@pytest.mark.parametrize(
    "other",
    [
        worker("w2", drained=True),
        worker("w2", accepting=False),
        worker("w2", slots=2, taken=2),
        worker("w2", slots=1, taken=3),
        worker("w2", slots=0),
    ],
)
def test_who_gets_no_jobs(other: Candidate) -> None:
    """Drained, not taking any, full, fuller than full (two brokers placed at once), and no worker at all."""
    assert placements(jobs(ANYWHERE), [other]) == []
    assert placements(jobs(ANYWHERE), [other, worker("w1")]) == [("job0", "w1")]


def test_only_who_can_hold_and_isolate_it_gets_a_job() -> None:
    """What it needs is all there."""
    wish = Wish(limits=frozenset({"memory"}), isolation=("no_network",))
    able = worker("w3", limits=("memory", "cpus"), isolation=("no_network",))
    some = [worker("w1", limits=("memory",)), worker("w2", isolation=("no_network",)), able]
    assert placements(jobs(wish, wish, wish), some) == [("job0", "w3"), ("job1", "w3")]


def test_what_is_private_goes_where_it_can_be_read() -> None:
    """Sealed, to who has that key; not sealed, to who has none, and could not tell it from what somebody else wrote."""
    old, changing, without = worker("w1", seals=("k1",)), worker("w2", seals=("k2", "k1")), worker("w3")
    some = [old, changing, without]
    fits = {
        seal: {each.name for each in some if not Wish(seal=seal).missing(each.session)} for seal in ("k1", "k2", "")
    }
    assert fits == {"k1": {"w1", "w2"}, "k2": {"w2"}, "": {"w3"}}
    assert placements(jobs(Wish(seal="k2")), [without, worker("w4", seals=("k1",))]) == []


def test_nothing_is_placed_while_the_pool_is_frozen() -> None:
    """Claims may be missing."""
    assert placements(jobs(ANYWHERE), [worker("w1")], frozen=True) == []
    assert why(ANYWHERE, [worker("w1")], frozen=True).startswith("nothing is placed")


def test_no_more_than_asked_for_are_placed_at_a_time() -> None:
    """Then what has changed meanwhile is seen."""
    assert len(placements(jobs(*[ANYWHERE] * 9), [worker("w1", 9)], most=4)) == 4


two = [worker("w1"), worker("w2", labels={"gpu": "a100"})]
full = [worker("w1", 3, 3), worker("w2", 3, 3), worker("w3", 2, 2, labels={"gpu": "a100"})]


@pytest.mark.parametrize(
    ("wish", "workers", "gone", "text"),
    [
        (ANYWHERE, [], 0, "no worker is there"),
        (ANYWHERE, [], 2, "no worker is there; 2 workers cannot be reached"),
        (GPU, [worker("w1")], 0, "no worker has the label gpu=a100"),
        (GPU, [worker("w1")], 1, "no worker has the label gpu=a100; 1 worker cannot be reached"),
        (Wish(limits=frozenset({"cpus"})), two, 0, "no worker has a containment that holds cpus"),
        (Wish(isolation=("no_network",)), two, 0, "no worker has what no_network takes"),
        (Wish(seal="k1"), two, 0, "no worker has the same --pool-secrets as the broker that took it"),
        (
            Wish(labels=(("gpu", "a100"),), limits=frozenset({"cpus"})),
            [*two, worker("w3", limits=("cpus",))],
            0,
            "no worker has all of: the label gpu=a100, a containment that holds cpus",
        ),
        (ANYWHERE, full, 0, "all 8 slots of 3 workers are taken"),
        (GPU, full, 0, "all 2 slots of 1 worker that could run it are taken"),
        (ANYWHERE, [worker("w1", 1, 1)], 0, "the one slot of 1 worker is taken"),
        (ANYWHERE, [worker("w1", drained=True)], 0, "1 worker is drained"),
        (GPU, [worker("w1"), replace(two[1], drained=True)], 0, "1 worker that could run it is drained"),
        (
            ANYWHERE,
            [worker("w1", drained=True), worker("w2", accepting=False)],
            0,
            "1 worker is drained, 1 worker takes no new jobs now",
        ),
        (ANYWHERE, two, 0, "it is about to be placed"),
    ],
)
def test_every_job_that_waits_says_why(wish: Wish, workers: list[Candidate], gone: int, text: str) -> None:
    """In words for people."""
    assert why(wish, workers, gone=gone) == text


WISHES = st.sampled_from([ANYWHERE, GPU, Wish(limits=frozenset({"cpus"}))])
WORKERS = st.lists(
    st.builds(
        worker,
        st.uuids().map(str),
        st.integers(0, 3),
        st.integers(0, 4),
        drained=st.booleans(),
        labels=st.sampled_from([{}, {"gpu": "a100"}]),
        limits=st.sampled_from([(), ("cpus",)]),
    ),
    max_size=5,
    unique_by=lambda each: each.name,
)


@CHECKED
@given(st.lists(WISHES, max_size=12), WORKERS)
def test_whatever_there_is(wishes: list[Wish], workers: list[Candidate]) -> None:
    """Nobody gets more than it has slots for, and who waits could go nowhere: it says so."""
    queue = jobs(*wishes)
    found = dict(placements(queue, workers))
    after = [replace(each, taken=each.taken + list(found.values()).count(each.name)) for each in workers]
    by_name = {each.name: each for each in after}
    for waiting in queue:
        if waiting.job in found:
            chosen = by_name[found[waiting.job]]
            assert chosen.open
            assert not waiting.wish.missing(chosen.session)
            assert chosen.taken <= chosen.session.slots
        else:
            assert why(waiting.wish, after) != "it is about to be placed"
