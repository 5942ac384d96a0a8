"""Each attack over real TLS: its answer is the standard's, it costs its own stream or connection, and it is counted.

The floods are tested without a network (``tests/unit/api/test_patience.py``); ``nox -s hostile`` sends them too.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from api.address import parse_address
from api.client import JobClient
from api.errors import NotFoundError
from api.rpc.statistics import Holdings
from tests.hostile.attacks import ON_A_STREAM, ON_THE_CONNECTION, Attack
from tests.hostile.peer import RawPeer
from tests.support.daemon import open_daemon
from tests.support.patience import patient
from tests.support.pki import TestPki


def attacked(attack: Attack, server: str, pki: TestPki) -> tuple[str, str]:
    """What the attack was answered, and an ordinary call behind it on the same connection."""
    with RawPeer(server, pki.context("rita")).begin() as peer:
        answer = attack.run(peer)
        return answer, peer.request()


@pytest.mark.parametrize("attack", [*ON_A_STREAM, *ON_THE_CONNECTION], ids=lambda attack: attack.name)
async def test_an_attack_has_its_answer_and_costs_nobody_else(pki: TestPki, tmp_path: Path, attack: Attack) -> None:
    """The neighbour's connection goes on, nothing of the attack is held, and the operator sees that there was one."""
    async with open_daemon(pki, tmp_path / "state") as daemon:
        server = daemon.address.replace("127.0.0.1", "localhost")
        with trio.fail_after(patient(20)):
            async with JobClient.connect(server, **pki.credentials("alice"), retry_for=0) as neighbour:
                await neighbour.workers()
                channel = await neighbour.channel()
                answer, after = await trio.to_thread.run_sync(attacked, attack, server, pki)
                assert answer == attack.answer
                assert after == (answer if attack.costs == "connection" else "NOT_FOUND")
                with pytest.raises(NotFoundError):
                    await neighbour.query("0000")
                assert await neighbour.channel() is channel
                while (found := daemon.connections.statistics()).connections > 1:
                    await trio.sleep(0.001)  # the attacker's end is on its way through the kernel
        counts = {name: getattr(found, name) for name in ("offences", "broke_protocol", "sent_away")}
        assert counts == {name: int(name == attack.counted) for name in counts}
        assert found.held == Holdings()


def hang_up(server: str, pki: TestPki) -> None:
    """Connect, and be gone."""
    socket.create_connection(parse_address(server), 10).close()


def garbage(server: str, pki: TestPki) -> None:
    """No TLS at all."""
    with socket.create_connection(parse_address(server), 10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while plain.recv(1024):
            pass


def until_closed(server: str, context: ssl.SSLContext) -> None:
    """Shake hands, as far as that goes, and wait for the end."""
    with (
        socket.create_connection(parse_address(server), 10) as plain,
        contextlib.suppress(OSError),
        context.wrap_socket(plain, server_hostname="localhost") as with_tls,
    ):
        with_tls.recv(1)


def no_certificate(server: str, pki: TestPki) -> None:
    """TLS, and nobody."""
    context = ssl.create_default_context(cafile=str(pki.ca))
    context.set_alpn_protocols(["h2"])
    until_closed(server, context)


def no_http_2(server: str, pki: TestPki) -> None:
    """A good certificate, and another protocol."""
    context = ssl.create_default_context(cafile=str(pki.ca))
    context.load_cert_chain(pki.certificate("rita"), pki.key("rita"))
    until_closed(server, context)


@pytest.mark.parametrize("attempt", [hang_up, garbage, no_certificate, no_http_2], ids=lambda each: each.__name__)
async def test_what_is_no_connection_is_counted(
    pki: TestPki, tmp_path: Path, attempt: Callable[[str, TestPki], None]
) -> None:
    """As a handshake that was refused; the neighbour's is one that was not."""
    async with open_daemon(pki, tmp_path / "state") as daemon:
        server = daemon.address.replace("127.0.0.1", "localhost")
        with trio.fail_after(patient(20)):
            async with JobClient.connect(server, **pki.credentials("alice"), retry_for=0) as neighbour:
                await trio.to_thread.run_sync(attempt, server, pki)
                await neighbour.workers()
                while (found := daemon.connections.statistics()).handshakes_refused < 1:
                    await trio.sleep(0.001)  # the end of the connection is on its way through the kernel
        assert (found.handshakes_refused, found.connections_served) == (1, 1)
