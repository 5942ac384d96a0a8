"""Which worker a job goes to, and whether there is one for it at all: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from api.errors import FieldViolation
from jobd.broker.ports import Worker
from jobd.worker.errors import InvalidSpecError
from jobd.worker.job import LIMITS, JobSpec
from jobd.worker.policy import LimitPolicy


@dataclass(frozen=True, slots=True)
class Load:
    """A worker as placement sees it."""

    name: str
    slots: int
    running: int

    @property
    def free(self) -> int:
        return self.slots - self.running


def choose(workers: Sequence[Load]) -> str | None:
    """The worker with the smallest part of its slots taken (the first of equals), or None when none is free."""
    free = [worker for worker in workers if worker.free > 0]
    return min(free, key=lambda worker: worker.running / worker.slots).name if free else None


def admitted(spec: JobSpec, principal: str, policy: LimitPolicy, workers: Sequence[Worker]) -> JobSpec:
    """The spec as it is to run: with the limits that hold for it.

    Raises:
        InvalidSpecError: it cannot be given to the kernel, asks for more than the principal may, or for a limit or an
            isolation that no worker has the means for (then it names those that the first one has not).
    """
    spec.check()
    spec = replace(spec, limits=policy.apply(spec.limits, principal))
    missing = [spec.limits.contained - worker.containment.limits for worker in workers]
    if missing and all(missing):
        why = "cannot be held here: 'jobcli workers' shows what can"
        raise InvalidSpecError(
            tuple(FieldViolation(f"spec.limits.{LIMITS[name][0]}", why) for name in sorted(missing[0]))
        )
    refused = [worker.means.refused(spec.isolation) for worker in workers]
    if refused and all(refused):
        raise InvalidSpecError(tuple(FieldViolation(f"spec.isolation.{name}", why) for name, why in refused[0]))
    return spec
