"""The life of a job: one table. What is not in the table cannot happen.

pending ──assigned──▶ starting ──launched──▶ running ──exited 0──────▶ succeeded
   │                     │                      ├──────exited n──────▶ failed
   │                     │                      ├──────signalled─────▶ killed
   │                     │                      ├──────ended on request▶ stopped
   │                     │                      ├──────ran too long───▶ timed_out
   │                     │                      ├──────used too much──▶ out_of_memory
   │                     │                      └──────wrote too much─▶ output_limit
   ├──stop──▶ stopped    ├──launch failed──▶ start_failed
   │                     └──ended on request──▶ stopped
and from pending, starting and running: ──untraceable──▶ lost
"""

from __future__ import annotations

import enum
from typing import Final

from jobd.worker.errors import InvalidTransitionError


class State(enum.StrEnum):
    """Where a job is in its life. ``stopping`` is a flag of starting and running, not a state."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    KILLED = "killed"
    STOPPED = "stopped"
    START_FAILED = "start_failed"
    LOST = "lost"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    OUTPUT_LIMIT = "output_limit"

    @property
    def terminal(self) -> bool:
        """The job has ended: it never leaves this state, and its output is complete."""
        return self not in LIVE


class Event(enum.StrEnum):
    """What happens to a job."""

    ASSIGNED = "assigned to a worker"
    UNASSIGNED = "taken back before it ran"
    LAUNCHED = "launched"
    LAUNCH_FAILED = "launch failed"
    EXITED_ZERO = "exited with code 0"
    EXITED_NONZERO = "exited with another code"
    SIGNALLED = "ended by a signal"
    ENDED_ON_REQUEST = "ended on request"
    RAN_TOO_LONG = "ended because it ran too long"
    USED_TOO_MUCH = "ended because it used too much memory"
    WROTE_TOO_MUCH = "ended because it wrote too much output"
    UNTRACEABLE = "can no longer be traced"


LIVE: Final = frozenset({State.PENDING, State.STARTING, State.RUNNING})

TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.PENDING, Event.ASSIGNED): State.STARTING,
    (State.PENDING, Event.ENDED_ON_REQUEST): State.STOPPED,
    (State.STARTING, Event.UNASSIGNED): State.PENDING,
    (State.STARTING, Event.LAUNCHED): State.RUNNING,
    (State.STARTING, Event.LAUNCH_FAILED): State.START_FAILED,
    (State.STARTING, Event.ENDED_ON_REQUEST): State.STOPPED,
    (State.RUNNING, Event.EXITED_ZERO): State.SUCCEEDED,
    (State.RUNNING, Event.EXITED_NONZERO): State.FAILED,
    (State.RUNNING, Event.SIGNALLED): State.KILLED,
    (State.RUNNING, Event.ENDED_ON_REQUEST): State.STOPPED,
    (State.RUNNING, Event.RAN_TOO_LONG): State.TIMED_OUT,
    (State.RUNNING, Event.USED_TOO_MUCH): State.OUT_OF_MEMORY,
    (State.RUNNING, Event.WROTE_TOO_MUCH): State.OUTPUT_LIMIT,
    (State.PENDING, Event.UNTRACEABLE): State.LOST,
    (State.STARTING, Event.UNTRACEABLE): State.LOST,
    (State.RUNNING, Event.UNTRACEABLE): State.LOST,
}


def after(state: State, event: Event) -> State:
    """The state that follows.

    Raises:
        InvalidTransitionError: the table has no such transition.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise InvalidTransitionError(f"a job that is {state} cannot be {event}") from None
