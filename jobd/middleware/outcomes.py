"""How did it end? Each call's status, reason and duration, for whoever is to know: once, for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import trio

from api.errors import Code, RpcError
from api.rpc.server import Handler, Middleware, ServerCall

Observer = Callable[[ServerCall, Code, str, float], None]
"""Told of a call that has ended: its status, the reason of an error (or ""), and the seconds that it took."""


def observed(observers: Sequence[Observer], clock: Callable[[], float] = time.monotonic) -> Middleware:
    """Tell the observers of every call, refused ones included. They neither wait nor raise."""

    async def observe(call: ServerCall, proceed: Handler) -> None:
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
            seconds = clock() - started
            for observer in observers:
                observer(call, status, reason, seconds)

    return observe


def _is_cancellation(exc: BaseException) -> bool:
    """Cancelled, or a nursery's group of nothing else."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(trio.Cancelled)[1] is None
    return isinstance(exc, trio.Cancelled)
