"""The health service: what a probe is told, and what a watcher hears when the server leaves."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trio

from api.address import parse_address
from api.errors import NotFoundError, UnavailableError
from api.messages import HealthCheckRequest, HealthCheckResponse
from api.methods import CHECK, HEALTH, JOB_WORKER, REFLECTION, WATCH
from api.rpc.channel import Channel, open_channel
from tests.support.daemon import jobd_program
from tests.support.patience import patient
from tests.support.pki import TestPki


def statuses(messages: list[HealthCheckResponse]) -> list[str | None]:
    return [message.status.name for message in messages]


@pytest.mark.parametrize("service", ["", JOB_WORKER, HEALTH, REFLECTION])
async def test_what_is_there_serves(pki: TestPki, server: str, service: str) -> None:
    """The server as a whole, and each of its services."""
    with trio.fail_after(patient(20)):
        async with (
            open_channel(*parse_address(server), pki.context("rita")) as channel,
            channel.call(CHECK, HealthCheckRequest(service)) as answers,
        ):
            answer = await answers.receive()
    assert answer is not None
    assert statuses([answer]) == ["SERVING"]


async def test_a_service_that_is_not_there_is_not_found(pki: TestPki, server: str) -> None:
    """Check says NOT_FOUND; Watch says SERVICE_UNKNOWN, and goes on."""
    with trio.fail_after(patient(20)):
        async with open_channel(*parse_address(server), pki.context("rita")) as channel:
            with pytest.raises(NotFoundError, match=r"no service 'no\.such'"):
                async with channel.call(CHECK, HealthCheckRequest("no.such")) as answers:
                    await answers.receive()
            async with channel.call(WATCH, HealthCheckRequest("no.such")) as answers:
                answer = await answers.receive()
                assert answer is not None
                assert statuses([answer]) == ["SERVICE_UNKNOWN"]


async def test_a_watcher_hears_that_the_server_leaves(pki: TestPki, tmp_path: Path) -> None:
    """SERVING, NOT_SERVING, and then UNAVAILABLE, so that it asks the next one."""
    seen = []

    async def watch(channel: Channel) -> None:
        async with channel.call(WATCH, HealthCheckRequest(JOB_WORKER)) as answers:
            while (answer := await answers.receive()) is not None:
                seen.append(answer)
                jobd.process.send_signal(signal.SIGTERM)

    with jobd_program(pki, tmp_path / "state") as jobd, trio.fail_after(patient(20)):
        async with open_channel(*parse_address(jobd.server), pki.context("rita")) as channel:
            with pytest.raises(UnavailableError, match="leaving"):
                await watch(channel)
    assert statuses(seen) == ["SERVING", "NOT_SERVING"]
