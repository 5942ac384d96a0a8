"""What did they do? One line for each call, when it has ended, refused ones included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from json import dumps
from json.encoder import encode_basestring_ascii
from typing import Any, Final

import structlog

from api.errors import Code
from api.identity import Principal
from api.rpc.server import ServerCall
from jobd.logs import MAX_SHOWN, info_lines
from jobd.middleware.outcomes import Observer

audit_log = structlog.get_logger("audit")


def audit(call: ServerCall, status: Code, reason: str, seconds: float) -> None:
    """Say it in the log."""
    audit_log.info("call", **_facts(call, status, reason, seconds))


def audit_in_log() -> Observer:
    """As :func:`audit`, by the shortest way: there is a line for each call."""
    write = info_lines("call")
    return audit_lines(write) if write else audit


def audit_lines(write: Callable[[str], None]) -> Observer:
    """Say it in a log that takes the members of a JSON object (:func:`jobd.logs.info_lines`)."""

    def audit(call: ServerCall, status: Code, reason: str, seconds: float) -> None:
        method = _quoted(call.path) if call.method else _quoted(ascii(call.path[:256]))
        job = encode_basestring_ascii(call.job_id[:MAX_SHOWN]) if call.job_id else "null"
        trace = f'"{call.trace.trace_id}"' if call.trace else "null"
        broker = f', "broker": {_quoted(call.broker.name)}' if call.broker else ""
        write(
            f'{_identity(call.principal)}, "method": {method}, "job": {job}, "peer": {_quoted(call.peer)}, '
            f'"status": "{status.name}", "reason": {_quoted(reason) if reason else "null"}, '
            f'"seconds": {round(seconds, 6)!r}, "call_id": "{call.id}", "trace_id": {trace}{broker}'
        )

    return audit


_quoted: Final = lru_cache(maxsize=1024)(encode_basestring_ascii)


@lru_cache(maxsize=256)
def _identity(principal: Principal | None) -> str:
    """Who called, as members of a JSON object."""
    return dumps(_identity_facts(principal))[1:-1]


def audit_into(put: Callable[[Mapping[str, Any]], None]) -> Observer:
    """Say it elsewhere."""

    def audit(call: ServerCall, status: Code, reason: str, seconds: float) -> None:
        put({"event": "call", **_facts(call, status, reason, seconds)})

    return audit


def _facts(call: ServerCall, status: Code, reason: str, seconds: float) -> dict[str, Any]:
    """Principal, certificate, roles, method, job, peer, status and its reason, duration, call, trace, broker."""
    return {
        **_identity_facts(call.principal),
        "method": call.method.path if call.method else ascii(call.path[:256]),
        "job": call.job_id[:MAX_SHOWN] or None,
        "peer": call.peer,
        "status": status.name,
        "reason": reason or None,
        "seconds": round(seconds, 6),
        "call_id": call.id,
        "trace_id": call.trace.trace_id if call.trace else None,
        **({"broker": call.broker.name} if call.broker else {}),
    }


def _identity_facts(principal: Principal | None) -> dict[str, Any]:
    return {
        "principal": principal.name if principal else None,
        "serial": principal.serial if principal else None,
        "roles": sorted(principal.roles) if principal else [],
    }
