"""As :mod:`jobd.service.translate`, for what is said of a job's stdin, its terminal, and those who attach to it."""

from __future__ import annotations

from typing import Any, Final

from api import messages as m
from jobd.service.refusal import refuse
from jobd.worker.job import Job, JobSpec
from jobd.worker.stdin import MAX_SIDE, Attacher, Attachment, StdinMode, Terminal, WindowSize

MAX_NAME: Final = 128

# ---- in


def stdin_of(spec: m.JobSpec) -> tuple[StdinMode, bytes, Terminal | None]:
    """Where a job's stdin comes from, what is given for it, and its terminal; the worker library judges them."""
    if spec.stdin not in (m.StdinMode.UNSPECIFIED, m.StdinMode.NONE, m.StdinMode.PIPE):
        raise refuse("spec.stdin", f"has the value {spec.stdin:d}, which is no mode of stdin")
    mode = StdinMode.PIPE if spec.stdin == m.StdinMode.PIPE else StdinMode.NONE
    asked = spec.terminal
    terminal = None if asked is None else Terminal(asked.rows, asked.columns, asked.term)
    return mode, bytes(spec.stdin_data), terminal


def attacher_of(start: m.AttachStart, by: str) -> Attacher:
    """Who attaches, and as which attachment."""
    name = start.attachment_id
    if len(name) > MAX_NAME or (name and not name.isprintable()):
        raise refuse("start.attachment_id", f"has more than {MAX_NAME} characters, or some that are not printable")
    return Attacher(by, name)


def size_of(field: str, window: m.WindowSize) -> WindowSize:
    """The size that a terminal is to have."""
    for side, count in (("rows", window.rows), ("columns", window.columns)):
        if not 1 <= count <= MAX_SIDE:
            raise refuse(f"{field}.{side}", f"is {count}, and not between 1 and {MAX_SIDE}")
    return WindowSize(window.rows, window.columns)


# ---- out


def stdin_fields(spec: JobSpec) -> dict[str, Any]:
    """The fields of a spec in an answer; given bytes are only counted."""
    terminal = spec.terminal
    return {
        "stdin": m.StdinMode.PIPE if spec.stdin is StdinMode.PIPE else m.StdinMode.UNSPECIFIED,
        "stdin_data_bytes": len(spec.stdin_data),
        "terminal": m.Terminal(terminal.rows, terminal.columns, terminal.term) if terminal else None,
    }


def attached_message(job: Job, offset: int, attachment: Attachment) -> m.AttachResponse:
    """The attachment has begun."""
    return m.AttachResponse(attached=m.Attached(job.id, offset, attachment.terminal, attachment.closed))


def accepted_message(count: int, *, closed: bool, refused: bool) -> m.AttachResponse:
    """How far stdin has come."""
    return m.AttachResponse(input_accepted=m.InputAccepted(count, closed, refused))
