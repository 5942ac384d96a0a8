"""``grpc.health.v1.Health``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from api import messages as m
from api import methods
from api.errors import NotFoundError, UnavailableError
from api.protobuf import encode, new
from api.rpc.server import Handler, ServerCall, at_once, server_stream

SERVICES: Final = frozenset({"", *(method.service for method in methods.METHODS)})


class HealthService:
    """The methods."""

    def __init__(self, ends: Sequence[trio.Event]) -> None:
        """
        Args:
            ends: any of them, once set, means that this server takes no more work.
        """
        self._ends = ends

    def handlers(self) -> dict[str, Handler]:
        """The handler for each path."""
        return {methods.CHECK.path: at_once(self.check), methods.WATCH.path: server_stream(self.watch)}

    def _present(self) -> bytes:
        return _NOT_SERVING if any(end.is_set() for end in self._ends) else _SERVING

    def check(self, call: ServerCall, request: m.HealthCheckRequest) -> bytes:
        if request.service not in SERVICES:
            raise NotFoundError(f"this server has no service {request.service[:128]!a}", reason="UNKNOWN_SERVICE")
        return self._present()

    async def watch(self, call: ServerCall, request: m.HealthCheckRequest) -> None:
        known = request.service in SERVICES
        await call.send(self._present() if known else _SERVICE_UNKNOWN)
        async with trio.open_nursery() as nursery:  # the first that is set ends the wait

            async def wait(end: trio.Event) -> None:
                await end.wait()
                nursery.cancel_scope.cancel()

            for end in self._ends:
                nursery.start_soon(wait, end)
        if known:
            await call.send(_NOT_SERVING)
        raise UnavailableError("this server is leaving; ask again", reason="SERVER_LEAVING")


def _response(status: str) -> bytes:
    return encode(new(m.HealthCheckResponse, status=m.HealthCheckResponseServingStatus[status]))


_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = map(_response, ("SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"))
