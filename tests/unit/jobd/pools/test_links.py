"""Connections to other machines."""

from __future__ import annotations

import ssl
import threading

import pytest
import trio
import trio.testing

from api.errors import ConfigError, UnavailableError
from jobd.pools.remote.links import Machine, open_links
from tests.support.patience import patient

CALLS = 5


async def test_a_machine_that_is_not_reached_is_tried_once_for_all_who_wait() -> None:
    """Not by one after the other, each of whom would wait for all before; who comes later tries again."""
    tried, go_on = 0, threading.Event()

    def context() -> ssl.SSLContext:
        nonlocal tried
        tried += 1
        assert go_on.wait(patient(20))
        raise ConfigError("no certificate")

    machine = Machine("m1", "localhost:1")
    with trio.fail_after(patient(20)):
        async with open_links(context) as links:

            async def call() -> None:
                with pytest.raises(UnavailableError, match="cannot be reached now"):
                    async with links.to(machine, lasting=False):
                        pass

            async with trio.open_nursery() as nursery:
                for _ in range(CALLS):
                    nursery.start_soon(call)
                await trio.testing.wait_all_tasks_blocked()
                assert links._place(machine, lasting=False).connecting.statistics().tasks_waiting == CALLS - 1
                go_on.set()
            assert tried == 1
            await call()
    assert tried == 2
