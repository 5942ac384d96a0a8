"""Which call is served at the moment: what is said in the log meanwhile is said of it.

A call costs one small object and one context variable, whatever is said; what stands in a line is read when the line is
written, so a job that the handler has found by then is in it.
"""

from __future__ import annotations

import itertools
import os
from contextvars import ContextVar
from typing import Final

_PROCESS: Final = os.urandom(4).hex()
_numbers: Final = itertools.count(1)


class CallContext:
    """What is known of a call.

    Attributes:
        id: which one it is, of all calls of all servers: of this process, and then a number.
        trace_id: the trace that it is made in, or "".
        job_id: the job that it is about, once the handler knows; or "".
        over: it has ended. What it has begun (a job's supervision) may go on, and is not the call's any more.
    """

    __slots__ = ("id", "job_id", "over", "trace_id")

    def __init__(self, trace_id: str = "") -> None:
        self.id = f"{_PROCESS}-{next(_numbers):x}"
        self.trace_id = trace_id
        self.job_id = ""
        self.over = False


CURRENT: Final[ContextVar[CallContext | None]] = ContextVar("CURRENT", default=None)
"""That of the task, or of the turn, that runs."""


def current() -> CallContext | None:
    """The call that is served, if there is one, and it has not ended."""
    found = CURRENT.get()
    return None if found is None or found.over else found
