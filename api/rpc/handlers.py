"""What answers calls, and what stands in front of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import betterproto

from api.errors import UnimplementedError
from api.rpc.call import ServerCall

Handler = Callable[[ServerCall], Awaitable[None]]
"""Answers a call: receives, sends, and returns when the call is done. Raises RpcError to end it with a status."""

Middleware = Callable[[ServerCall, Handler], Awaitable[None]]
"""Stands in front of a handler, the same way for unary and streaming calls. It waits for nothing before it has awaited
:meth:`ServerCall.own_task`, and enters no cancel scope and no nursery: most calls are answered without a task."""

Answer = betterproto.Message | bytes
"""A response, or its wire form."""


class InTurn:
    """A handler that does nothing which needs a task before it has awaited :meth:`ServerCall.own_task`. So a call can
    begin, and end if it can be answered at once, in the turn of its connection's reader (``api.rpc.calls``)."""

    __slots__ = ("_handle",)

    def __init__(self, handle: Handler) -> None:
        self._handle = handle

    def __call__(self, call: ServerCall) -> Awaitable[None]:
        return self._handle(call)


def stack(middleware: list[Middleware], handler: Handler) -> Handler:
    """The handler with the middleware in front of it, the first outermost."""
    in_turn = isinstance(handler, InTurn)
    for outer in reversed(middleware):
        handler = _around(outer, handler)
    return InTurn(handler) if in_turn else handler


def _around(outer: Middleware, inner: Handler) -> Handler:
    def handle(call: ServerCall) -> Awaitable[None]:
        return outer(call, inner)

    return handle


def unary(function: Callable[[ServerCall, Any], Awaitable[Answer]]) -> Handler:
    """The handler for a method with one response: ``await function(call, request)`` is sent."""

    async def handle(call: ServerCall) -> None:
        request = await call.receive()
        await call.own_task()
        await call.answer(await function(call, request))

    return InTurn(handle)


def at_once(function: Callable[[ServerCall, Any], Answer | Callable[[], Awaitable[Answer]]]) -> Handler:
    """The handler for a method with one response that is mostly known at once: ``function(call, request)`` is sent; or
    what it gives is awaited, if the response has to be waited for."""

    async def handle(call: ServerCall) -> None:
        answer = function(call, await call.receive())
        if not isinstance(answer, betterproto.Message | bytes):
            await call.own_task()
            answer = await answer()
        await call.answer(answer)

    return InTurn(handle)


def server_stream(function: Callable[[ServerCall, Any], Awaitable[None]]) -> Handler:
    """The handler for a method with many responses: ``function(call, request)`` sends them itself."""

    async def handle(call: ServerCall) -> None:
        request = await call.receive()
        await call.own_task()
        await function(call, request)

    return InTurn(handle)


def router(handlers: Mapping[str, Handler]) -> Handler:
    """The handler that calls the one registered for the call's path."""

    async def handle(call: ServerCall) -> None:
        handler = handlers.get(call.path)
        if handler is None:
            raise unknown_method(call.path)
        if not isinstance(handler, InTurn):
            await call.own_task()
        await handler(call)

    return InTurn(handle)


def unknown_method(path: str) -> UnimplementedError:
    """The answer to a path that names no method."""
    return UnimplementedError(f"there is no method {path[:256]!a} here", reason="UNKNOWN_METHOD")
