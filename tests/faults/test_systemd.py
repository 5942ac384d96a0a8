"""A jobd that systemd has started: it is told how the server is, and what it gave to listen on is listened on, through
the ends of servers and of jobd. (The machine of tests/machine has a real one.)"""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest
import trio

from api.client import JobClient
from api.errors import ConfigError
from jobd.transport.listener import take
from tests.support import systemd
from tests.support.daemon import jobd_program
from tests.support.patience import patient
from tests.support.pki import TestPki

SECONDS = patient(300)


async def env_of_a_job(client: JobClient) -> set[str]:
    """The names of the variables that a job has."""
    job = await client.start(["env"])
    async with client.stream(job.id) as output:
        text = b"".join([chunk.data async for chunk in output]).decode()
    return {line.partition("=")[0] for line in text.splitlines()}


async def test_a_service_is_told_of_and_listens_on_what_it_was_given(
    pki: TestPki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ready, reloading, dead and back, stopping; the watchdog, by the server's own answers; and one socket all along,
    whose connections wait while no jobd is there."""
    with systemd.hearing() as hears, socket.create_server(("127.0.0.1", 0)) as listener, trio.fail_after(SECONDS):
        monkeypatch.setenv("NOTIFY_SOCKET", hears.address)
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        address = f"localhost:{listener.getsockname()[1]}"
        python = systemd.interpreter(tmp_path, listener.fileno())
        passed = {"pass_fds": [listener.fileno()]}
        with jobd_program(pki, tmp_path / "state", python=python, identity=passed) as jobd:
            assert jobd.server == address
            assert (await trio.to_thread.run_sync(hears.until, "READY"))["STATUS"] == "serving"
            async with JobClient.connect(address, **pki.credentials("alice"), retry_for=SECONDS) as client:
                names = await env_of_a_job(client)
                assert not [each for each in names if each.startswith(("NOTIFY_", "WATCHDOG_", "LISTEN_"))]
                await trio.to_thread.run_sync(hears.until, "WATCHDOG")

                before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
                jobd.process.send_signal(signal.SIGHUP)
                reloading = await trio.to_thread.run_sync(hears.until, "RELOADING")
                assert int(reloading["MONOTONIC_USEC"]) >= before
                await trio.to_thread.run_sync(hears.until, "READY")
                await client.workers()

                jobd.kill_server()
                down = await trio.to_thread.run_sync(hears.until, "STATUS")
                assert down["STATUS"] == "the server was ended by signal 9; it is started again"
                await trio.to_thread.run_sync(hears.until, "READY")
                await trio.to_thread.run_sync(hears.until, "WATCHDOG")
                await client.workers()
            jobd.process.terminate()
            await trio.to_thread.run_sync(hears.until, "STOPPING")
            assert await trio.to_thread.run_sync(jobd.process.wait, SECONDS) == 0

        answered = trio.Event()

        async def ask() -> None:
            async with JobClient.connect(address, **pki.credentials("alice"), retry_for=SECONDS) as client:
                await client.workers()
                answered.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            with jobd_program(pki, tmp_path / "state", python=python, identity=passed) as jobd:
                assert jobd.server == address
                await answered.wait()


@pytest.mark.parametrize("kind", ["of a file", "datagrams", "not listening"])
def test_what_is_no_listening_socket_is_refused(tmp_path: Path, kind: str) -> None:
    """By a line that says what it should be; and it is closed."""
    family = socket.AF_UNIX if kind == "of a file" else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if kind == "datagrams" else socket.SOCK_STREAM) as sock:
        if family == socket.AF_UNIX:
            sock.bind(str(tmp_path / "socket"))
            sock.listen()
        with pytest.raises(ConfigError, match="is not one that listens to TCP"):
            take(os.dup(sock.fileno()))


def test_an_address_that_is_none_is_refused_though_it_is_not_used(pki: TestPki, tmp_path: Path) -> None:
    """What a start takes and what an upgrade takes is the same: an upgrade does not know what was given."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        python = systemd.interpreter(tmp_path, listener.fileno())
        passed = {"pass_fds": [listener.fileno()]}
        with (
            pytest.raises(AssertionError, match=r"'127\.0\.0\.1:22222222' is not an address"),
            jobd_program(pki, tmp_path / "state", "--listen", "127.0.0.1:22222222", python=python, identity=passed),
        ):
            pass
