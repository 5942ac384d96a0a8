"""A job as the row that the store keeps, and back.

The row has the whole job as JSON, and beside it what is searched for. A sum over all of it shows what SQLite cannot:
that a text inside an intact page is another one than was written.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib
from collections.abc import Sequence
from typing import Any, Final

from jobd.worker.containment import Limits, Member, Receipt, Stopped, Usage
from jobd.worker.isolation import Isolation
from jobd.worker.job import Job, JobSpec
from jobd.worker.lifecycle import State
from jobd.worker.stdin import StdinMode, Terminal

SUMMED: Final = "id, state, principal, request_id, ended_at, output_bytes, record"
COLUMNS: Final = f"{SUMMED}, sum"

Column = str | int | None


def row_of(job: Job) -> list[Column]:
    """The values for :data:`COLUMNS`."""
    record = dump(job)
    summed = [job.id, job.state, job.started_by, job.request_id or None, job.ended_at, job.output_bytes, record]
    return [*summed, sum_of(*summed)]


def from_row(row: Sequence[Column]) -> Job:
    """The job for what :func:`row_of` gave.

    Raises:
        ValueError: the row is another one than was written.
    """
    *summed, sum_ = row
    if sum_ != sum_of(*summed):
        raise ValueError(f"the record of job {summed[0]!a} is damaged")
    return load(str(summed[-1]))


def sum_of(*values: Column) -> int:
    """The CRC-32 of a row; the store calls it as a function of SQL, too."""
    return zlib.crc32("\0".join("" if value is None else str(value) for value in values).encode())


def dump(job: Job) -> str:
    """The text for a job."""
    fields: dict[str, Any] = {f.name: getattr(job, f.name) for f in dataclasses.fields(job)}
    spec = job.spec
    fields["spec"] = {"argv": spec.argv, "name": spec.name, "env": dict(spec.env), "cwd": spec.cwd}
    fields["spec"]["limits"] = _facts(spec.limits)
    fields["spec"].update({"user": spec.user, "group": spec.group, "umask": spec.umask})
    fields["spec"].update({"secret_env": dict(spec.secret_env), "secret_digest": spec.secret_digest})
    fields["spec"]["isolation"] = spec.isolation.asked
    fields["spec"]["stdin"] = spec.stdin
    fields["spec"]["stdin_data"] = base64.b64encode(spec.stdin_data).decode()
    fields["spec"].update({"traceparent": spec.traceparent, "tracestate": spec.tracestate} if spec.traceparent else {})
    fields["spec"]["terminal"] = dataclasses.astuple(spec.terminal) if spec.terminal else None
    fields["usage"] = _facts(job.usage) if job.usage else None
    fields["receipt"] = _receipt_facts(job.receipt) if job.receipt else None
    return json.dumps(fields, separators=(",", ":"))


def load(text: str) -> Job:
    """The job for a text.

    Raises:
        ValueError: the text is not what :func:`dump` makes.
    """
    try:
        fields = json.loads(text)
        spec = fields.pop("spec")
        signals = tuple((number, by) for number, by in fields.pop("signals", ()))
        usage, receipt = fields.pop("usage", None), fields.pop("receipt", None)
        return Job(
            spec=_spec(spec),
            usage=None if usage is None else Usage(**usage),
            receipt=_receipt(receipt) if receipt else None,
            state=State(fields.pop("state")),
            signals=signals,
            **fields,
        )
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"a damaged job record: {exc}") from exc


def _spec(facts: dict[str, Any]) -> JobSpec:
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
    )


def _facts(value: Limits | Usage) -> dict[str, Any]:
    """Those that say something."""
    return {f.name: got for f in dataclasses.fields(value) if (got := getattr(value, f.name)) != f.default}


def _receipt_facts(receipt: Receipt) -> dict[str, Any]:
    processes = [
        [each.member.pid, each.member.parent, each.member.command, each.member.left_session, each.signal]
        for each in receipt.processes
    ]
    return {**{f.name: getattr(receipt, f.name) for f in dataclasses.fields(receipt)}, "processes": processes}


def _receipt(facts: dict[str, Any]) -> Receipt:
    processes = tuple(Stopped(Member(*member), signal) for *member, signal in facts.pop("processes"))
    return Receipt(processes, **facts)
