"""The world of a pool at one moment: etcd, what is on its way there, brokers, workers, and what has really happened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from jobd.pools.etcd.codec import decode
from jobd.pools.etcd.keys import Keys
from jobd.pools.etcd.records import Claim
from jobd.pools.etcd.steps import Found
from jobd.pools.etcd.transaction import Compare, KeyValue, Outcome, Put, Txn
from tests.support.memory_etcd import apply, check


class _Remembered(Keys):
    """Keys that are made once: the search asks for the same few all the time."""


for _name in (
    "member",
    "session",
    "drain",
    "request",
    "spec",
    "private",
    "state",
    "queued",
    "assigned",
    "claim",
    "ended",
):
    setattr(_Remembered, _name, lru_cache(1000)(getattr(Keys, _name)))
setattr(_Remembered, "job_of", lru_cache(1000)(Keys.job_of))  # noqa: B010 # as above
setattr(_Remembered, "__hash__", lambda keys: id(keys))  # noqa: B010 # there is one

KEYS: Final = _Remembered("p")
JOBS: Final = ("00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002")
WORKERS: Final = ("w1", "w2")


class BrokenRuleError(AssertionError):
    """Something happened that must never happen."""


class Plan(NamedTuple):
    """A transaction that somebody is about to send, made of what was read some time ago."""

    kind: str
    job: int
    txn: Txn
    read: KeyValue | None = None
    lost: bool = False


class Local(NamedTuple):
    """What a worker's own store and launcher have of a job.

    Attributes:
        state: "", intended, cleared (to start: the server knows that it is claimed), uncertain, runs, ended.
    """

    state: str = ""
    intent: str = ""
    attempt: int = 0


class Worker(NamedTuple):
    """A machine with its server.

    Attributes:
        up: the session that it takes for its own.
        made: how many intents and sessions it has made, so that each has another name.
    """

    name: str
    up: KeyValue | None
    jobs: tuple[Local, ...]
    plan: Plan | None = None
    made: int = 0


class Budget(NamedTuple):
    """How much can go wrong yet."""

    crashes: int = 0
    reboots: int = 0
    expiries: int = 0
    doubts: int = 0
    stops: int = 0
    drains: int = 0
    undrains: int = 0
    forgets: int = 0
    retries: int = 0
    """How often a lost job may be run again (it is no fault, and is not used up)."""


class World(NamedTuple):
    """Attributes:
    late: what was sent, and may be done at any time, or never.
    told: what clients were told, and wanted: (what, job).
    runs: how often each job's process was started.
    """

    kvs: Mapping[bytes, KeyValue]
    revision: int
    brokers: tuple[Plan | None, ...]
    workers: tuple[Worker, ...]
    budget: Budget
    runs: tuple[int, ...]
    late: tuple[Plan, ...] = ()
    told: frozenset[tuple[str, int]] = frozenset()

    def job(self, number: int) -> Found | None:
        """A job as it is in etcd now."""
        at = self.kvs.get(KEYS.state(JOBS[number]))
        return found(at) if at else None

    def spent(self, what: str) -> Budget:
        """The budget after one more."""
        return self.budget._replace(**{what: getattr(self.budget, what) - 1})

    def with_worker(self, worker: Worker) -> World:
        """The world with this worker in place of the one of its name."""
        return self._replace(workers=tuple(worker if each.name == worker.name else each for each in self.workers))

    def with_broker(self, number: int, plan: Plan | None) -> World:
        """The world with this plan in place of the broker's."""
        plans = [*self.brokers[:number], plan, *self.brokers[number + 1 :]]
        return self._replace(brokers=tuple(plans))

    def tell(self, what: str, job: int) -> World:
        """Somebody knows this now."""
        return self._replace(told=self.told | {(what, job)})


@lru_cache(100_000)
def found(at: KeyValue) -> Found:
    return Found.of(KEYS, at)


@lru_cache(100_000)
def claim_of(at: KeyValue) -> Claim:
    return decode(Claim, at.key, at.value)


def perform(world: World, txn: Txn) -> tuple[Outcome, World]:
    """etcd does a transaction; what must hold of it is looked at."""
    outcome, kvs = apply(world.kvs, world.revision, txn)
    if kvs is world.kvs:
        return outcome, world
    after = world._replace(kvs=kvs, revision=outcome.revision)
    for number in range(len(world.runs)):
        _look(world, after, number)
    return outcome, after


def _look(before: World, after: World, number: int) -> None:
    """See that nothing in etcd contradicts the rules.

    Raises:
        BrokenRuleError: it does.
    """
    name, was, job = JOBS[number], before.job(number), after.job(number)
    if job is None:
        if ("accepted", number) in before.told:
            raise BrokenRuleError("an acknowledged job is gone")
        return
    if was and was.ended and was.state != job.state:
        raise BrokenRuleError("an end was changed")
    at = after.kvs.get(KEYS.claim(name, job.state.attempt))
    if at is None:
        return
    claim, key = claim_of(at), at.key
    if key not in before.kvs:
        session = before.kvs.get(KEYS.session(claim.worker))
        if session is None or session.created != claim.epoch:
            raise BrokenRuleError("a job was claimed in a session that is over")
        if KEYS.drain(claim.worker) in before.kvs:
            raise BrokenRuleError("a job was claimed by a worker that is drained")
    others = {KEYS.assigned(each.name, name) for each in after.workers if each.name != claim.worker}
    if KEYS.queued(name) in after.kvs or others & set(after.kvs):
        raise BrokenRuleError("a claimed job was placed again")


# ---- which worlds are the same

_NAMES: Final = re.compile(rb'"(epoch|order)":\d+,?|"instance":"[^"]*",?')


@lru_cache(100_000)
def _value(value: bytes, intents: tuple[bytes, ...]) -> bytes:
    """A value without what makes the same situation look different: revisions, and names that were made up. Of an
    intent all that matters is whether a worker still has it."""
    value = _NAMES.sub(b"", value)
    for intent in intents:
        value = value.replace(intent, b"its")
    return value


@lru_cache(100_000)
def _steps(txn: Txn, intents: tuple[bytes, ...]) -> tuple[object, ...]:
    return tuple([(step.key, _value(step.value, intents) if isinstance(step, Put) else b"-") for step in txn.then])


def _holding(compare: Compare, kvs: Mapping[bytes, KeyValue]) -> bool:
    at = kvs.get(compare.key)
    return compare.revision == (0 if at is None else at.created if compare.what == "created" else at.modified)


def _shape(plan: Plan, kvs: Mapping[bytes, KeyValue], intents: tuple[bytes, ...]) -> tuple[object, ...]:
    """A transaction that has not been done: of each revision that it compares, all that matters is whether it is the
    present one. One that is not never will be again."""
    when = [compare.revision and _holding(compare, kvs) for compare in plan.txn.when]
    return (plan.kind, plan.job, plan.lost, *when, *_steps(plan.txn, intents))


def hopeless(plan: Plan, kvs: Mapping[bytes, KeyValue]) -> bool:
    """It will never be done: a revision that it compares is gone for good, or a job is claimed for good."""
    return any((compare.revision or b"/c/" in compare.key) and not _holding(compare, kvs) for compare in plan.txn.when)


def tidy(world: World) -> World:
    """The same, without what can never make a difference; brokers, which are all alike, in one order."""
    late = tuple(plan for plan in world.late if not hopeless(plan, world.kvs))
    brokers = [None if plan is None or hopeless(plan, world.kvs) else plan for plan in world.brokers]
    if all(brokers):
        brokers.sort(key=repr)
    else:
        brokers.sort(key=bool)
    return world._replace(brokers=tuple(brokers), late=late)


def shape(world: World) -> tuple[object, ...]:
    """Two worlds with the same shape have the same futures."""
    kvs = world.kvs
    intents = tuple([local.intent.encode() for each in world.workers for local in each.jobs if local.intent])
    brokers = [plan and _shape(plan, kvs, intents) for plan in world.brokers]
    workers = [
        (
            each.up and _present(each.up, kvs),
            tuple([(local.state, local.attempt) for local in each.jobs]),
            each.plan and _shape(each.plan, kvs, intents),
        )
        for each in world.workers
    ]
    late = [_shape(plan, kvs, intents) for plan in world.late]
    return (
        tuple([(key, _value(kvs[key].value, intents)) for key in sorted(kvs)]),
        tuple(brokers),
        tuple(workers),
        frozenset(late),
        world.budget,
        world.runs,
        world.told,
    )


def _present(up: KeyValue, kvs: Mapping[bytes, KeyValue]) -> bool:
    at = kvs.get(up.key)
    return at is not None and at.created == up.created


def checked(txn: Txn) -> Txn:
    """A transaction that etcd takes."""
    check(txn)
    return txn
