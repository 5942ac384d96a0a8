"""What a probe is told, by the state that the server is in."""

from __future__ import annotations

from typing import cast

import pytest
import trio

from api.errors import NotFoundError
from api.messages import HealthCheckRequest, HealthCheckResponse
from api.methods import HEALTH, JOB_WORKER, REFLECTION
from api.protobuf import decode
from api.rpc.server import ServerCall
from jobd.service.health import HealthService

CALL = cast(ServerCall, None)
"""Check asks nothing of it."""


def status(health: HealthService, service: str) -> str | None:
    return decode(HealthCheckResponse, health.check(CALL, HealthCheckRequest(service))).status.name


@pytest.mark.parametrize("service", ["", JOB_WORKER, HEALTH, REFLECTION])
@pytest.mark.parametrize("which", [0, 1])
def test_a_server_that_takes_no_more_work_does_not_serve(service: str, which: int) -> None:
    """Whether it is leaving, or its launcher has ended; as a whole, and each of its services."""
    ends = [trio.Event(), trio.Event()]
    health = HealthService(ends)
    assert status(health, service) == "SERVING"
    ends[which].set()
    assert status(health, service) == "NOT_SERVING"


def test_what_is_no_service_of_the_server_has_no_status() -> None:
    """Nor when it leaves."""
    over = trio.Event()
    over.set()
    with pytest.raises(NotFoundError, match="no service"):
        HealthService([over]).check(CALL, HealthCheckRequest("no.such"))
