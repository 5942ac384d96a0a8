"""Jobs of this program as records of the pool, and back."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection
from dataclasses import replace
from typing import Any, Final

from api.errors import FieldViolation
from jobd.pools.etcd.codec import RecordTooLargeError, encode
from jobd.pools.etcd.keys import Keys
from jobd.pools.etcd.pool_errors import PoolDataError
from jobd.pools.etcd.private import Seal
from jobd.pools.etcd.records import Order, Phase
from jobd.pools.etcd.steps import Found
from jobd.worker.errors import InvalidSpecError
from jobd.worker.facts import Facts, facts_of, job_of, spec_facts, spec_of
from jobd.worker.job import Job, JobSpec
from jobd.worker.lifecycle import State

_NOT_COMPARED: Final = ("secret_digest", "traceparent", "tracestate")
_MOST_OF_END: Final = 48 * 1024
"""Bytes of what is kept of how a job ended."""


def order_of(keys: Keys, job: Job, seal: Seal, *, roles: Collection[str] = ()) -> tuple[Order, bytes]:
    """What goes to etcd of a job that was admitted, and what of that is private.

    Args:
        roles: of whoever started it.

    Raises:
        InvalidSpecError: it cannot go there.
    """
    try:
        spec, private = seal.split(job.spec, keys.private(job.id))
        order = Order(
            spec=spec_facts(spec),
            principal=job.started_by,
            roles=tuple(sorted(roles)),
            request_id=job.request_id,
            created_at=job.created_at,
            retry_lost=job.spec.retry_lost,
            private=bool(private),
            seal=seal.names[0] if private and seal.names else "",
            stdin_bytes=len(job.spec.stdin_data),
        )
        encode(order)
    except RecordTooLargeError as exc:
        why = f"has {exc.size} bytes as a record, and may have {exc.most} in a pool; pass large input in a file"
        raise InvalidSpecError((FieldViolation("spec", why),)) from exc
    return order, private


def hash_of(spec: JobSpec) -> str:
    """Of what was asked for, whole, but for the values of secrets and the trace: requests with the same id and hash are
    the same one, if their secrets are (:func:`jobd.worker.secret.matches`)."""
    asked = spec_facts(spec.withheld)
    for name in _NOT_COMPARED:
        asked.pop(name, None)
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def end_facts(job: Job) -> Facts:
    """How a job has ended, for its record; the processes that a stop found are left out when there are too many."""
    facts = facts_of(replace(job, spec=JobSpec(("",))))
    del facts["spec"]
    if len(json.dumps(facts)) > _MOST_OF_END and job.receipt and job.receipt.processes:
        return end_facts(replace(job, receipt=replace(job.receipt, processes=())))
    if len(json.dumps(facts)) > _MOST_OF_END:
        facts["message"], facts["signals"] = job.message[:1000], ()
    return facts


def job_from(keys: Keys, found: Found, order: Order) -> Job:
    """The job as the pool knows it. One that was claimed is starting, or runs: ask its worker which.

    Raises:
        PoolDataError: the records are not what jobd writes.
    """
    try:
        spec = _spec_of(order)
        if found.ended:
            facts: dict[str, Any] = {**found.state.job, "spec": order.spec}
            job = job_of(facts)
            if job.id != found.id or not job.state.terminal:
                raise PoolDataError(found.at.key, "it is the end of another job")
            return job
    except (ValueError, TypeError, AttributeError) as exc:
        raise PoolDataError(found.at.key, str(exc)) from exc
    return Job(
        found.id,
        spec,
        State.PENDING if found.state.phase == Phase.PENDING else State.STARTING,
        order.created_at,
        started_by=order.principal,
        request_id=order.request_id,
        worker=found.state.worker,
        attempt=found.state.attempt,
    )


def _spec_of(order: Order) -> JobSpec:
    """The order's spec, of which every field is of its type: it goes to where nobody expects anything else (the job
    store, the launcher). Whether it can be run is judged elsewhere."""
    spec = spec_of(dict(order.spec))
    with contextlib.suppress(InvalidSpecError):
        spec.check()
    json.dumps(spec_facts(spec))
    return spec
