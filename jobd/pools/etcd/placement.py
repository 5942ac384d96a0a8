"""Which worker of the pool each waiting job goes to, and why the others wait: pure functions.

A job goes only to a worker that has a session, is not drained, takes new jobs, has the labels that the job asks for,
and can hold its limits and isolate it. Among those that have a slot free it is the least loaded one. The order of the
queue holds: a job is overtaken only by jobs that go where it could not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from jobd.broker.placement import Load, choose
from jobd.pools.etcd.records import Order, Session
from jobd.worker.facts import spec_of

SOON: Final = "it is about to be placed"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that has a session.

    Attributes:
        taken: jobs that are assigned to it, or that it has, its own among them.
    """

    name: str
    session: Session
    taken: int = 0
    drained: bool = False

    @property
    def open(self) -> bool:
        """It gets new jobs."""
        return not self.drained and self.session.accepting


@dataclass(frozen=True, slots=True)
class Wish:
    """What a job needs of its worker. Jobs with the same wish wait for the same thing.

    Attributes:
        seal: the name of the key that it has to open what is private with; "" when it may not ask for a key; None when
            there is nothing private.
    """

    labels: tuple[tuple[str, str], ...] = ()
    limits: frozenset[str] = frozenset()
    isolation: tuple[str, ...] = ()
    seal: str | None = None

    @classmethod
    def of(cls, order: Order) -> Wish:
        """
        Raises:
            ValueError: the order's spec is none.
        """
        spec = spec_of(dict(order.spec))
        seal = order.seal if order.private else None
        return cls(tuple(sorted(spec.worker_labels.items())), spec.limits.contained, spec.isolation.asked, seal)

    def missing(self, session: Session) -> list[str]:
        """What a worker lacks for it, in words."""
        return [
            *(f"the label {name}={value}" for name, value in self.labels if session.labels.get(name) != value),
            *(f"a containment that holds {name}" for name in sorted(self.limits - set(session.limits))),
            *(f"what {name} takes" for name in self.isolation if name not in session.isolation),
            *(["the same --pool-secrets as the broker that took it"] if not self._opened(session) else []),
        ]

    def _opened(self, session: Session) -> bool:
        """What is private can be read there."""
        if self.seal is None:
            return True
        return self.seal in session.seals if self.seal else not session.seals


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that waits."""

    job: str
    wish: Wish


def placements(
    queue: Iterable[Waiting], candidates: Sequence[Candidate], *, frozen: bool = False, most: int = 100
) -> list[tuple[str, str]]:
    """Jobs with the workers that they go to now, the first ones first.

    Args:
        queue: in its order.
        most: how many; the next ones are seen to when these are placed.
    """
    found: list[tuple[str, str]] = []
    loads = {each.name: Load(each.name, each.session.slots, each.taken) for each in candidates}
    fitting: dict[Wish, list[Candidate]] = {}
    free = 0 if frozen else sum(max(0, each.session.slots - each.taken) for each in candidates if each.open)
    for waiting in queue:
        if len(found) >= min(most, free):
            break
        fit = fitting.get(waiting.wish)
        if fit is None:
            fit = fitting[waiting.wish] = [
                each for each in candidates if each.open and not waiting.wish.missing(each.session)
            ]
        if not fit:
            continue
        worker = choose([loads[each.name] for each in fit], spread=waiting.job)
        if worker is None:
            fit.clear()  # and nothing will be free for this wish until the next time
            continue
        loads[worker] = replace(loads[worker], running=loads[worker].running + 1)
        found.append((waiting.job, worker))
    return found


def why(wish: Wish, candidates: Sequence[Candidate], *, gone: int = 0, frozen: bool = False) -> str:
    """Why a job with this wish waits, for people.

    Args:
        gone: workers of the pool that have no session.
    """
    if frozen:
        return "nothing is placed while the pool is frozen, until all workers have said what they have"
    away = f"; {_count(gone, 'worker')} cannot be reached" if gone else ""
    if not candidates:
        return f"no worker is there{away}"
    fit = [each for each in candidates if not wish.missing(each.session)]
    if not fit:
        return _lacking(wish, candidates) + away
    ready = [each for each in fit if each.open]
    such = "" if len(fit) == len(candidates) else " that could run it"
    if not ready:
        drained = sum(each.drained for each in fit)
        parts = [f"{_count(drained, 'worker')}{such} {_is(drained)} drained"] if drained else []
        closed = len(fit) - drained
        if closed:
            parts.append(f"{_count(closed, 'worker')}{such} {'takes' if closed == 1 else 'take'} no new jobs now")
        return ", ".join(parts) + away
    slots = sum(each.session.slots for each in ready)
    if any(each.taken < each.session.slots for each in ready):
        return SOON
    return f"{_all(slots, 'slot')} of {_count(len(ready), 'worker')}{such} {_is(slots)} taken{away}"


def _lacking(wish: Wish, candidates: Sequence[Candidate]) -> str:
    """What nobody has; or that nobody has all of it."""
    lacks = [wish.missing(each.session) for each in candidates]
    nowhere = [each for each in lacks[0] if all(each in other for other in lacks)]
    if nowhere:
        return f"no worker has {nowhere[0]}"
    wanted = list(dict.fromkeys(each for lack in lacks for each in lack))
    return f"no worker has all of: {', '.join(wanted)}"


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _all(count: int, what: str) -> str:
    return f"the one {what}" if count == 1 else f"all {count} {what}s"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"
