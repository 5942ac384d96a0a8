"""What did they do? One line for each call, when it has ended, refused ones included."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog
import trio

from api.errors import Code, RpcError
from api.rpc.server import Handler, ServerCall

MAX_SHOWN: Final = 512
"""Characters of what the caller calls its jobs; it can be a whole message."""

audit_log = structlog.get_logger("audit")


async def audit(call: ServerCall, proceed: Handler, clock: Callable[[], float] = time.monotonic) -> None:
    """Log principal, certificate, roles, method, job, peer, status and its reason, and duration."""
    started = clock()
    status, reason = Code.INTERNAL, ""
    try:
        await proceed(call)
        status = Code.OK
    except RpcError as exc:
        status, reason = exc.code, exc.reason
        raise
    except BaseException as exc:  # only looked at, and raised on: a nursery may have wrapped what cancelled it
        if _is_cancellation(exc):
            if call.refusal:
                status, reason = Code.UNAUTHENTICATED, call.refusal.reason
            else:  # by the caller's deadline, or by the caller, or by the end of the connection
                status = Code.DEADLINE_EXCEEDED if call.expired else Code.CANCELLED
        raise
    finally:
        audit_log.info(
            "call",
            principal=call.principal.name if call.principal else None,
            serial=call.principal.serial if call.principal else None,
            roles=sorted(call.principal.roles) if call.principal else [],
            method=call.method.path if call.method else ascii(call.path[:256]),
            job=call.job_id[:MAX_SHOWN] or None,
            peer=call.peer,
            status=status.name,
            reason=reason or None,
            seconds=round(clock() - started, 6),
        )


def _is_cancellation(exc: BaseException) -> bool:
    """Cancelled, or a nursery's group of nothing else."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(trio.Cancelled)[1] is None
    return isinstance(exc, trio.Cancelled)
