"""Steps that lack something, as somebody might write them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from jobd.pools.etcd.keys import Keys
from jobd.pools.etcd.records import Claim
from jobd.pools.etcd.rejoin import Local, Todo, todo
from jobd.pools.etcd.steps import Found, Intent, Verdict, claimed
from jobd.pools.etcd.transaction import Compare, KeyValue, Outcome, Txn, absent, unchanged
from tests.properties.pool.rules import Rules
from tests.properties.pool.world import KEYS, Budget


def kind_of(compare: Compare) -> str:
    """Which kind of key it is about."""
    return compare.key.removeprefix(KEYS.everything).split(b"/")[0].decode()


def without(step: Callable[..., Txn], *kinds: str) -> Callable[..., Txn]:
    """The step without what it compares of these kinds of keys."""

    def lacking(*args: object, **named: object) -> Txn:
        txn = step(*args, **named)
        return replace(txn, when=tuple(compare for compare in txn.when if kind_of(compare) not in kinds))

    return lacking


def lacking(step: str, *kinds: str) -> Rules:
    """The rules with one step that lacks something."""
    return replace(Rules(), **{step: without(getattr(Rules, step), *kinds)})


def gone_places_again(keys: Keys, job: Found, now: int) -> Txn:
    """As if the end of a lease said something about the process."""
    return Txn((absent(keys.session(job.state.worker)), unchanged(job.at)), job.pending_again(keys))


def starts_whatever_it_has_claimed(*args: Any) -> Todo:
    """As if a claim said that nothing was started yet."""
    found = todo(*args)
    return Todo.START if found is Todo.LOSE else found


def settles_what_was_superseded(
    job: Found | None, claim: Claim | None, intent: Intent, local: Local, attempt: int
) -> Todo:
    """As if there were one attempt of each job."""
    found = todo(job, claim, intent, local, attempt)
    return Todo.SETTLE if found is Todo.DROP and local is Local.ENDED else found


def drops_its_intent_in_doubt(outcome: Outcome, assigned: KeyValue, intent: Intent) -> Verdict:
    """As if what was not done could not be done later."""
    return Verdict.OVER if claimed(outcome, assigned, intent) is Verdict.AGAIN else claimed(outcome, assigned, intent)


MUTANTS: Final[dict[str, tuple[Rules, Budget]]] = {
    "place compares nothing of the job": (lacking("place", "j", "q", "c"), Budget(stops=1)),
    "claim compares no session": (lacking("claim", "up"), Budget(expiries=1)),
    "claim compares no assignment": (lacking("claim", "a"), Budget(stops=1)),
    "claim compares no drain": (lacking("claim", "drain"), Budget(drains=1)),
    "claim comes before the intent": (replace(Rules(), intent_first=False), Budget(crashes=1)),
    "report compares nothing": (lacking("report", "j"), Budget(expiries=1, forgets=1)),
    "gone compares nothing of the job": (lacking("gone", "j", "c"), Budget(expiries=1)),
    "gone places again what was claimed": (replace(Rules(), gone=gone_places_again), Budget(expiries=1)),
    "give back compares nothing": (lacking("give_back", "j", "c"), Budget(drains=1)),
    "stop compares nothing": (lacking("stop", "j", "c"), Budget(stops=1)),
    "forget compares nothing of the job": (lacking("forget", "j"), Budget(expiries=1, forgets=1)),
    "rejoin starts whatever it has claimed": (replace(Rules(), todo=starts_whatever_it_has_claimed), Budget(reboots=1)),
    "rejoin settles what was superseded": (
        replace(Rules(), todo=settles_what_was_superseded),
        Budget(expiries=1, forgets=1, retries=1),
    ),
    "an intent is dropped in doubt": (
        replace(Rules(), claimed=drops_its_intent_in_doubt),
        Budget(drains=1, doubts=1, undrains=1),
    ),
}
"""What somebody might get wrong, and how much has to go wrong beside it."""
