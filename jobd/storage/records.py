"""A job as the JSON text that the store keeps, and back."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from jobd.worker.job import Job, JobSpec
from jobd.worker.lifecycle import State


def dump(job: Job) -> str:
    """The text for a job."""
    fields: dict[str, Any] = {f.name: getattr(job, f.name) for f in dataclasses.fields(job)}
    spec = job.spec
    fields["spec"] = {"argv": spec.argv, "name": spec.name, "env": dict(spec.env), "cwd": spec.cwd}
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
        return Job(
            spec=JobSpec(tuple(spec["argv"]), spec["name"], spec["env"], spec["cwd"]),
            state=State(fields.pop("state")),
            signals=signals,
            **fields,
        )
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"a damaged job record: {exc}") from exc
