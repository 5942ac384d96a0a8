"""A job, and what it is to run, as facts: what JSON can carry. And back.

Whoever keeps them elsewhere (the job store, a pool) decides what of it, and how it is made sure of.
"""

from __future__ import annotations

import base64
import dataclasses
from typing import Any

from jobd.worker.containment import Limits, Member, Receipt, Stopped, Usage
from jobd.worker.isolation import Isolation
from jobd.worker.job import Job, JobSpec
from jobd.worker.lifecycle import State
from jobd.worker.stdin import StdinMode, Terminal

Facts = dict[str, Any]
_DEFAULTS = {kind: [(f.name, f.default) for f in dataclasses.fields(kind)] for kind in (Limits, Usage)}


def facts_of(job: Job) -> Facts:
    """All of a job."""
    fields: Facts = vars(job).copy()
    fields["spec"] = spec_facts(job.spec)
    fields["usage"] = _said(job.usage) if job.usage else None
    fields["receipt"] = _receipt_facts(job.receipt) if job.receipt else None
    if not job.attempt:  # so that servers of before it read what they know
        del fields["attempt"]
    return fields


def spec_facts(spec: JobSpec) -> Facts:
    """All of what a job is to run, the values of its secrets included."""
    facts: Facts = {"argv": spec.argv, "name": spec.name, "env": dict(spec.env), "cwd": spec.cwd}
    facts["limits"] = _said(spec.limits)
    facts.update({"user": spec.user, "group": spec.group, "umask": spec.umask})
    facts.update({"secret_env": dict(spec.secret_env), "secret_digest": spec.secret_digest})
    facts["isolation"] = spec.isolation.asked
    facts["stdin"] = spec.stdin
    facts["stdin_data"] = base64.b64encode(spec.stdin_data).decode()
    facts.update({"traceparent": spec.traceparent, "tracestate": spec.tracestate} if spec.traceparent else {})
    facts.update({"worker_labels": dict(spec.worker_labels)} if spec.worker_labels else {})
    facts.update({"retry_lost": spec.retry_lost} if spec.retry_lost else {})
    facts["terminal"] = dataclasses.astuple(spec.terminal) if spec.terminal else None
    return facts


def job_of(facts: Facts) -> Job:
    """The job for what :func:`facts_of` gave, which is used up.

    Raises:
        ValueError: that gave something else.
    """
    try:
        spec = spec_of(facts.pop("spec"))
        signals = tuple((number, by) for number, by in facts.pop("signals", ()))
        usage, receipt = facts.pop("usage", None), facts.pop("receipt", None)
        return Job(
            spec=spec,
            usage=None if usage is None else Usage(**usage),
            receipt=_receipt(receipt) if receipt else None,
            state=State(facts.pop("state")),
            signals=signals,
            **facts,
        )
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"a damaged job record: {exc}") from exc


def spec_of(facts: Facts) -> JobSpec:
    """The spec for what :func:`spec_facts` gave.

    Raises:
        ValueError: that gave something else.
    """
    try:
        return _spec(facts)
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"a damaged spec of a job: {exc}") from exc


def _spec(facts: Facts) -> JobSpec:
    terminal = facts.get("terminal")
    return JobSpec(
        tuple(facts["argv"]),
        facts["name"],
        facts["env"],
        facts["cwd"],
        Limits(**facts.get("limits", {})),
        user=facts.get("user", ""),
        group=facts.get("group", ""),
        umask=facts.get("umask"),
        secret_env=facts.get("secret_env", {}),
        secret_digest=facts.get("secret_digest", ""),
        isolation=Isolation(**dict.fromkeys(facts.get("isolation", ()), True)),
        stdin=StdinMode(facts.get("stdin", StdinMode.NONE)),
        stdin_data=base64.b64decode(facts.get("stdin_data", ""), validate=True),
        terminal=Terminal(*terminal) if terminal else None,
        traceparent=facts.get("traceparent", ""),
        tracestate=facts.get("tracestate", ""),
        worker_labels=facts.get("worker_labels", {}),
        retry_lost=facts.get("retry_lost", 0),
    )


def _said(value: Limits | Usage) -> Facts:
    """Those that say something."""
    return {name: got for name, default in _DEFAULTS[type(value)] if (got := getattr(value, name)) != default}


def _receipt_facts(receipt: Receipt) -> Facts:
    processes = [
        [each.member.pid, each.member.parent, each.member.command, each.member.left_session, each.signal]
        for each in receipt.processes
    ]
    return {**{f.name: getattr(receipt, f.name) for f in dataclasses.fields(receipt)}, "processes": processes}


def _receipt(facts: Facts) -> Receipt:
    processes = tuple(Stopped(Member(*member), signal) for *member, signal in facts.pop("processes"))
    return Receipt(processes, **facts)
