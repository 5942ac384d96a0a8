"""The steps that are searched, and where the search begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from jobd.pools.etcd import ends, membership, steps
from jobd.pools.etcd.ends import Ending
from jobd.pools.etcd.records import Member, Order, Session
from jobd.pools.etcd.rejoin import Local as Known
from jobd.pools.etcd.rejoin import Todo, todo
from jobd.pools.etcd.steps import Verdict
from jobd.pools.etcd.transaction import Txn
from tests.properties.pool.world import KEYS, WORKERS, Budget, Local, Worker, World, perform

LEASE: Final = 7
NOTHING: Final = Local()
KNOWN: Final = {
    "": Known.UNKNOWN,
    "intended": Known.INTENDED,
    "cleared": Known.INTENDED,
    "uncertain": Known.UNCERTAIN,
    "runs": Known.RUNS,
    "ended": Known.ENDED,
}


@dataclass(frozen=True)
class Rules:
    """The steps that are searched; a mutant has others.

    Attributes:
        intent_first: the worker writes its intent down before it claims.
    """

    submit: Callable[..., Txn] = steps.submit
    place: Callable[..., Txn] = steps.place
    claim: Callable[..., Txn] = steps.claim
    claimed: Callable[..., Verdict] = steps.claimed
    report: Callable[..., Txn] = ends.report
    gone: Callable[..., Txn] = ends.gone
    give_back: Callable[..., Txn] = ends.give_back
    stop: Callable[..., Txn] = ends.stop
    forget: Callable[..., Txn] = ends.forget
    settle: Callable[..., Txn] = ends.settle
    todo: Callable[..., Todo] = todo
    intent_first: bool = True


def order_of(world: World, number: int) -> Order:
    """What a client wants."""
    return Order(spec={}, principal="p", created_at=1, request_id=f"r{number}", retry_lost=world.budget.retries)


def ending_of(world: World, number: int, state: str) -> Ending:
    """How a job has ended: "ok", "stopped" or "lost"."""
    facts: dict[str, Any] = {"state": state}
    lost, retries = state == "lost", world.budget.retries
    return Ending(1, facts, "p", request_id=f"r{number}", lost=lost, retries=retries)


def beginning(budget: Budget, *, jobs: int = 1, brokers: int = 2) -> World:
    """Workers are there, and nothing has been submitted."""
    world = World(
        {}, 1, (None,) * brokers, tuple(Worker(name, None, (NOTHING,) * jobs) for name in WORKERS), budget, (0,) * jobs
    )
    for worker in world.workers:
        member = Member(uid=f"uid-{worker.name}", address="a:1")
        session = Session(uid=member.uid, instance="first", address="a:1", slots=1)
        txn = membership.enter(KEYS, worker.name, member, session, LEASE, was=None, up=None)
        assert txn
        _, world = perform(world, txn)
        world = world.with_worker(worker._replace(up=world.kvs[KEYS.session(worker.name)]))
    return world
