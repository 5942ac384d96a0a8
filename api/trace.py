"""In which trace something is done: W3C Trace Context (https://www.w3.org/TR/trace-context/), passed on as it came.

Somebody else's spans: nothing here makes any. What does not keep to the standard is as if it had not come.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

PARENT: Final = "traceparent"
STATE: Final = "tracestate"
PARENT_VARIABLE: Final = "TRACEPARENT"
STATE_VARIABLE: Final = "TRACESTATE"
"""The same in a process's environment (OpenTelemetry's "Environment Variables as Context Propagation Carriers")."""
MAX_STATE: Final = 512
"""Characters that have to be passed on (3.3.1.5); a longer one is left out, whole."""
MAX_MEMBERS: Final = 32

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z", re.DOTALL)
_KEY = r"(?:[a-z0-9][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
_MEMBER = re.compile(rf"({_KEY})=[ -+\--<>-~]{{0,255}}[!-+\--<>-~]\Z")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace.

    Attributes:
        parent: ``traceparent``, as it is passed on.
        state: ``tracestate``, or "".
    """

    parent: str
    state: str = ""

    @property
    def trace_id(self) -> str:
        """Which trace: 32 hexadecimal digits."""
        return self.parent[3:35]


def trace_of(metadata: Iterable[tuple[str, str | bytes]]) -> TraceContext | None:
    """What a call's metadata say, if they say one thing."""
    parents, states = [], []
    for name, value in metadata:
        if isinstance(value, str):
            if name == PARENT:
                parents.append(value)
            elif name == STATE:
                states.append(value)
    return parse(parents[0], ",".join(states)) if len(parents) == 1 else None


def metadata_of(trace: TraceContext) -> tuple[tuple[str, str], ...]:
    """The metadata that say it."""
    return ((PARENT, trace.parent), (STATE, trace.state)) if trace.state else ((PARENT, trace.parent),)


def trace_in(environment: Mapping[str, str]) -> TraceContext | None:
    """What the environment of a process says."""
    return parse(environment.get(PARENT_VARIABLE, ""), environment.get(STATE_VARIABLE, ""))


def parse(parent: str, state: str = "") -> TraceContext | None:
    """The context; None for a parent that is none. A state that is none is left out."""
    found = _PARENT.match(parent)
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    if version == "00":
        return None if rest else TraceContext(parent, _state(state))
    # A later version begins like this one, and is passed on as what is known of it: whether it is sampled.
    return TraceContext(f"00-{trace_id}-{span_id}-{int(flags, 16) & 1:02x}", _state(state))


def _state(text: str) -> str:
    members = [member.strip(" \t") for member in text.split(",")] if len(text) <= MAX_STATE else []
    members = [member for member in members if member]
    found = [_MEMBER.match(member) for member in members]
    keys = {each[1] for each in found if each}
    return ",".join(members) if len(keys) == len(members) <= MAX_MEMBERS else ""
