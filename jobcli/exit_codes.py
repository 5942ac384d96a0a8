"""The exit codes, which are those of ``docker run``."""

from __future__ import annotations

from typing import Final

from api.messages import Job, JobState, Verdict

OUR_FAILURE: Final = 125
"""Bad usage, no contact with the server, a refusal, a stream that was cut."""
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
SIGNAL_BASE: Final = 128
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141

_START_FAILED: Final = {"COMMAND_NOT_FOUND": NOT_FOUND, "NOT_EXECUTABLE": NOT_EXECUTABLE}


def of_end(end: Job | Verdict) -> int:
    """The code to end with for a job that ended so: its own code, or 128 and the signal."""
    if end.exit_code is not None:
        return end.exit_code
    if end.signal is not None:
        return SIGNAL_BASE + end.signal
    if end.state == JobState.START_FAILED:
        return _START_FAILED.get(end.reason, OUR_FAILURE)
    return OUR_FAILURE  # stopped before it ran, or lost: there is no code to pass on
