"""What a job may be: judged once, when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from api.errors import FieldViolation
from jobd.broker.ports import Worker
from jobd.quota import QuotaPolicy
from jobd.worker.errors import ForbiddenUserError, InvalidSpecError, TooManyJobsError
from jobd.worker.identity import own
from jobd.worker.job import LIMITS, Job, JobSpec
from jobd.worker.policy import Caller, LimitPolicy
from jobd.worker.run_as import RunAsPolicy
from jobd.worker.secret import digest_of, matches


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator allows."""

    limits: LimitPolicy = field(default_factory=LimitPolicy)
    run_as: RunAsPolicy = field(default_factory=RunAsPolicy)
    quota: QuotaPolicy = field(default_factory=QuotaPolicy)


ANYTHING: Final = Policy()


async def admitted(
    spec: JobSpec, caller: Caller, policy: Policy, workers: Sequence[Worker], *, pooled: bool = False
) -> JobSpec:
    """The spec as it is to run: with the limits that hold for it, and the user.

    Args:
        workers: those that it can run on, as far as that is known: none is a pool's, of machines elsewhere.
        pooled: the job is that of a pool, and may ask for what only that has.

    Raises:
        InvalidSpecError: it cannot be given to the kernel, asks for more than the caller may, for what only a pool
            has, or for a limit or an isolation that no worker has (then it names those that the first one has not).
    """
    spec.check()
    if not pooled and (violations := _of_a_pool(spec)):
        raise InvalidSpecError(violations)
    beyond = [spec.limits.beyond(worker.containment.capacity) for worker in workers]
    if beyond and all(beyond):
        raise InvalidSpecError(
            tuple(
                FieldViolation(
                    f"spec.limits.{LIMITS[name][0]}", f"is {wanted:.15g}, and the machine has {has:.15g} for jobd"
                )
                for name, wanted, has in beyond[0]
            )
        )
    spec = replace(spec, limits=policy.limits.apply(spec.limits, caller))
    missing = [spec.limits.contained - worker.containment.limits for worker in workers]
    if missing and all(missing):
        why = "cannot be held here: 'jobcli workers' shows what can"
        raise InvalidSpecError(
            tuple(FieldViolation(f"spec.limits.{LIMITS[name][0]}", why) for name in sorted(missing[0]))
        )
    refused = [worker.means.refused(spec.isolation) for worker in workers]
    if refused and all(refused):
        raise InvalidSpecError(tuple(FieldViolation(f"spec.isolation.{name}", why) for name, why in refused[0]))
    if spec.secret_env:
        spec = replace(spec, secret_digest=await trio.to_thread.run_sync(digest_of, spec.secret_env))
    await trio.lowlevel.checkpoint()  # so that jobs whose end the caller has heard of no longer count
    if policy.run_as.knows_without_looking(spec):
        return policy.run_as.apply(spec, caller)
    return await trio.to_thread.run_sync(policy.run_as.apply, spec, caller)


def _of_a_pool(spec: JobSpec) -> tuple[FieldViolation, ...]:
    asked = {
        "worker_labels": (spec.worker_labels, "no worker here has labels: this jobd is not in a pool"),
        "retry_lost": (spec.retry_lost, "a job that is lost is run again by a pool only: this jobd is in none"),
    }
    return tuple(FieldViolation(f"spec.{name}", why) for name, (value, why) in asked.items() if value)


def beyond_quota(caller: Caller, has: int, policy: Policy) -> TooManyJobsError | None:
    """Why the caller gets no further job, beside those that it has, if it does not."""
    jobs = policy.quota.of(caller).jobs
    return TooManyJobsError(caller.name, jobs) if has >= jobs else None


async def see_to_writing(job: Job, caller: Caller, policy: Policy) -> None:
    """See that the caller may write to a job, which in a shell is as good as to run one.

    Raises:
        ForbiddenUserError: it runs as somebody whom the caller may run no jobs as.
    """
    if not await trio.to_thread.run_sync(policy.run_as.permits, job.spec, caller):
        raise ForbiddenUserError(job.id, job.spec.user or own().name, caller.name)


async def differences(recorded: Job, job: Job) -> list[str]:
    """In what a request differs from one that came before with its request_id: fields of the spec, and principal."""
    differs = recorded.spec.differences(job.spec)
    if recorded.started_by != job.started_by:
        return ["principal", *differs]  # and whether somebody else's secrets are the same is nobody's business
    if job.spec.secret_env and "secret_env" not in differs:
        same = await trio.to_thread.run_sync(matches, job.spec.secret_env, recorded.spec.secret_digest)
        return differs if same else [*differs, "secret_env"]
    return differs
