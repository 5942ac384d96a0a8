"""How a job ended, in words for people: a pure function."""

from __future__ import annotations

import os
import signal
from typing import Final

from jobd.worker.containment import Limits
from jobd.worker.job import Reason

NEARLY: Final = 0.5
"""Of its limit, what a job has used at the least that the kernel ended for that: it may be asked for much at once."""


def how_it_ended(status: int, reason: Reason, stopped_by: str, limits: Limits, recorded: int, peak: int | None) -> str:
    """How a process ended, in words.

    Args:
        recorded: bytes of its output.
        peak: bytes of memory that the job has used at the most, if that was counted.
    """
    if os.WIFSIGNALED(status):
        how = f"ended by {_signal_name(os.WTERMSIG(status))}"
    else:
        how = f"exited with code {os.WEXITSTATUS(status)}"
    match reason:
        case Reason.WORKER_SHUT_DOWN:
            return f"{how}; jobd was shut down"
        case Reason.STOPPED_BY_REQUEST:
            return f"{how}; {stopped_by or 'a stop'} asked for it"
        case Reason.TIMED_OUT:
            return f"{how}; it had run for the {limits.timeout:g} s that it may"
        case Reason.OUT_OF_MEMORY:
            if not limits.memory or (peak is not None and peak < limits.memory * NEARLY):
                return f"{how}; the memory ran out of which its processes have a share: the machine's, or jobd's"
            return f"{how}; its processes had used the {limits.memory} bytes of memory that they may"
        case Reason.OUTPUT_LIMIT:
            return f"{how}; it had written more output than the {recorded} bytes that it may"
        case _:
            return how


def _signal_name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"
