"""The calls of one connection, from their first frame to their status.

A call whose request is whole when its connection's reader has read it begins there, in the reader's turn: what stands
in front of its handler, and the handler as far as it can go, are run like any function. Most unary calls end there, and
cost no task, no cancel scope and no wake-up. One that has to wait says so before it does anything that belongs to a
task (:meth:`api.rpc.call.ServerCall.own_task`), and is taken up by a task of its own where it stopped; so does each
whose request is not whole yet. Whatever a handler does, its call ends in one of the ways that gRPC names.
"""

from __future__ import annotations

import types
import uuid
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, cast

import structlog
import trio

from api.call_context import CURRENT
from api.errors import DeadlineExceededError, InternalError, RpcError
from api.rpc.call import OWN_TASK, ServerCall
from api.rpc.call_stream import CallStream
from api.rpc.events import Request
from api.rpc.handlers import Handler, InTurn
from api.rpc.session import Session

log = structlog.get_logger(__name__)


class Calls:
    """The calls that are open on one connection; those that wait each in its own task of the connection's nursery."""

    def __init__(self, nursery: trio.Nursery, session: Session, handler: Handler) -> None:
        self._nursery = nursery
        self._session = session
        self._handler = handler
        self._may_begin_in_turn = isinstance(handler, InTurn)
        self._begun: dict[CallStream, Request] = {}  # in this turn, and the request is not whole yet
        self._tasks = 0
        self._none_open = trio.Event()

    # ---- in the reader's turn

    def begin(self, stream: CallStream, request: Request) -> None:
        """The headers of a request have come."""
        self._begun[stream] = request

    def complete(self, stream: CallStream) -> None:
        """All of a request has come."""
        request = self._begun.get(stream)
        if request is None or not self._may_begin_in_turn or not stream.whole or self._session.transport.pending:
            return
        call = ServerCall(stream, self._session, request)
        if call.expired:
            return
        del self._begun[stream]
        before = CURRENT.set(call.context)
        try:
            self._run_in_turn(stream, call)
        finally:
            CURRENT.reset(before)

    def settle(self) -> None:
        """The turn is over: what has begun and is not whole goes on by itself."""
        if self._begun:
            for stream, request in self._begun.items():
                call = ServerCall(stream, self._session, request)
                self._spawn(stream, call, None)
            self._begun.clear()

    def _run_in_turn(self, stream: CallStream, call: ServerCall) -> None:
        error: RpcError | None = None
        running = cast("Coroutine[Any, Any, None]", self._handler(call))
        call.in_turn = True
        try:
            asked = running.send(None)
        except StopIteration:
            pass
        except RpcError as exc:
            error = exc
        except Exception as exc:  # noqa: BLE001 # the border: it ends this call, and not the reader that all others depend on
            error = _incident(call, exc)
        else:
            if asked is not OWN_TASK:
                running.close()
                raise RuntimeError(f"{call.path} waited in the turn of its connection's reader")
            call.in_turn = False
            self._spawn(stream, call, running)
            return
        if not call.answered:
            stream.end_response(error, response_started=call.response_started)
        call.context.over = True
        self._session.forget(stream)

    # ---- in tasks

    async def ended(self) -> None:
        """Wait until none is open."""
        while self._tasks:
            self._none_open = trio.Event()
            await self._none_open.wait()

    def _spawn(self, stream: CallStream, call: ServerCall, running: Coroutine[Any, Any, None] | None) -> None:
        self._tasks += 1
        self._nursery.start_soon(self._run, stream, call, running)

    async def _run(self, stream: CallStream, call: ServerCall, running: Coroutine[Any, Any, None] | None) -> None:
        try:
            CURRENT.set(call.context)  # the task ends with the call
            await _serve(stream, call, self._handler(call) if running is None else _resumed(running))
        finally:
            call.context.over = True
            self._session.forget(stream)
            self._tasks -= 1
            if not self._tasks:
                self._none_open.set()


@types.coroutine
def _resumed(running: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
    """Go on with what was begun outside of a task. (``await`` takes none that is in the middle of something.)"""
    yield from running


async def _serve(stream: CallStream, call: ServerCall, handling: Awaitable[None]) -> None:
    """Run a handler under its deadline and the caller's will; end the call with what came of it."""
    error: RpcError | None = None
    with trio.CancelScope() as scope:
        stream.on_reset = scope.cancel
        if call.deadline is not None:
            scope.deadline = call.deadline
        if stream.lost or call.refusal or call.expired:  # since it has begun, or before
            scope.cancel()
        try:
            await handling
        except RpcError as exc:
            error = exc
        except Exception as exc:  # noqa: BLE001 # the border: nothing a handler raises reaches a peer or a neighbour
            error = _incident(call, exc)
    if scope.cancelled_caught:
        error = _why_cut(call, scope)
        if error is None:
            return  # the caller has given up: nobody to tell
    if not call.answered:
        stream.end_response(error, response_started=call.response_started)


def _why_cut(call: ServerCall, scope: trio.CancelScope) -> RpcError | None:
    if call.refusal:
        return call.refusal.error()
    if call.timeout is not None and trio.current_time() >= scope.deadline:
        return DeadlineExceededError(f"{call.path} was not done within the {call.timeout:g} s that the caller gave")
    return None


def _incident(call: ServerCall, exc: Exception) -> InternalError:
    incident = uuid.uuid4().hex[:12]
    log.error("a handler failed", path=call.path, peer=call.peer, incident=incident, exc_info=exc)
    return InternalError(
        f"the server failed in a way that it did not expect; its log has it as incident {incident}",
        reason="INCIDENT",
        metadata={"incident": incident},
    )
