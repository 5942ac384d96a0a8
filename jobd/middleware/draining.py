"""Is the server about to leave? Calls that could last are ended then, with the status that makes clients call again."""

from __future__ import annotations

from typing import Final

import trio

from api import methods
from api.errors import UnavailableError
from api.rpc.server import Handler, ServerCall

_JOBS: Final = (methods.STREAM, methods.WAIT, methods.ATTACH)
_TOOLS: Final = (methods.REFLECT, methods.REFLECT_ALPHA)
LASTING: Final = frozenset(method.path for method in (*_JOBS, *_TOOLS))
"""What may go on for as long as a job does, or as a tool keeps it. Whoever called takes it up again at the next server,
where it was."""


class Draining:
    """Ends lasting calls when the server leaves; all others may finish."""

    def __init__(self, leaving: trio.Event) -> None:
        self._leaving = leaving
        self._scopes: set[trio.CancelScope] = set()

    async def run(self) -> None:
        """Wait for the moment, and end what is open then."""
        await self._leaving.wait()
        for scope in self._scopes:
            scope.cancel()

    async def middleware(self, call: ServerCall, proceed: Handler) -> None:
        """Let the call through, for now."""
        if call.path not in LASTING:
            await proceed(call)
            return
        await call.own_task()
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            if self._leaving.is_set():
                scope.cancel()
            try:
                await proceed(call)
            finally:
                self._scopes.discard(scope)
        if scope.cancelled_caught:
            raise UnavailableError(
                "this server is leaving; call again", reason="SERVER_LEAVING", metadata=call.standing
            )
