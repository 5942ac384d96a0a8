"""What did they do? One line for each call, when it has ended, refused ones included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from api.errors import Code
from api.rpc.server import ServerCall
from jobd.middleware.outcomes import Observer

MAX_SHOWN: Final = 512
"""Characters of what the caller calls its jobs; it can be a whole message."""

audit_log = structlog.get_logger("audit")


def audit(call: ServerCall, status: Code, reason: str, seconds: float) -> None:
    """Say it in the log."""
    audit_log.info("call", **_facts(call, status, reason, seconds))


def audit_into(put: Callable[[Mapping[str, Any]], None]) -> Observer:
    """Say it elsewhere."""

    def audit(call: ServerCall, status: Code, reason: str, seconds: float) -> None:
        put({"event": "call", **_facts(call, status, reason, seconds)})

    return audit


def _facts(call: ServerCall, status: Code, reason: str, seconds: float) -> dict[str, Any]:
    """Principal, certificate, roles, method, job, peer, status and its reason, duration, trace, and broker."""
    return {
        "principal": call.principal.name if call.principal else None,
        "serial": call.principal.serial if call.principal else None,
        "roles": sorted(call.principal.roles) if call.principal else [],
        "method": call.method.path if call.method else ascii(call.path[:256]),
        "job": call.job_id[:MAX_SHOWN] or None,
        "peer": call.peer,
        "status": status.name,
        "reason": reason or None,
        "seconds": round(seconds, 6),
        "trace_id": call.trace.trace_id if call.trace else None,
        **({"broker": call.broker.name} if call.broker else {}),
    }
