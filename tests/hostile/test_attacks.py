"""Each attack over real TLS: its answer is the standard's, it costs its own stream or connection, and it is counted.

The floods are tested without a network (``tests/unit/api/test_patience.py``); ``nox -s hostile`` sends them too.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio

from api.address import parse_address
from api.client import JobClient
from api.errors import NotFoundError
from api.methods import METHODS
from api.roles import Role
from api.rpc.statistics import Holdings, Statistics
from tests.hostile.attack import Attack
from tests.hostile.connection_attacks import ON_THE_CONNECTION
from tests.hostile.identity_sieges import spellings, tried
from tests.hostile.peer import RawPeer
from tests.hostile.stream_attacks import ON_A_STREAM
from tests.support.daemon import open_daemon
from tests.support.patience import patient
from tests.support.pki import TestPki

WRITERS = {method.path for method in METHODS if method.role is Role.WRITER}


def attacked(attack: Attack, server: str, pki: TestPki) -> tuple[str, str]:
    """What the attack was answered, and an ordinary call behind it on the same connection."""
    with RawPeer(server, pki.context("rita")).begin() as peer:
        answer = attack.run(peer)
        return answer, peer.request()


COUNTED = ("offences", "broke_protocol", "sent_away")


def grown(before: Statistics, after: Statistics) -> dict[str, int]:
    return {name: getattr(after, name) - getattr(before, name) for name in COUNTED}


@pytest.mark.parametrize("attacks", [ON_A_STREAM, ON_THE_CONNECTION], ids=["on a stream", "on the connection"])
async def test_an_attack_has_its_answer_and_costs_nobody_else(
    pki: TestPki, tmp_path: Path, attacks: Sequence[Attack]
) -> None:
    """The neighbour's connection goes on, nothing of the attack is held, and the operator sees that there was one."""
    async with open_daemon(pki, tmp_path / "state") as daemon:
        server = daemon.address.replace("127.0.0.1", "localhost")
        with trio.fail_after(patient(60)):
            async with JobClient.connect(server, **pki.credentials("alice"), retry_for=0) as neighbour:
                await neighbour.workers()
                channel = await neighbour.channel()
                for attack in attacks:
                    before = daemon.connections.statistics()
                    answer, behind = await trio.to_thread.run_sync(attacked, attack, server, pki)
                    assert answer == attack.answer, attack.name
                    assert behind == (answer if attack.costs == "connection" else "NOT_FOUND"), attack.name
                    with pytest.raises(NotFoundError):
                        await neighbour.query("0000")
                    assert await neighbour.channel() is channel, attack.name
                    while (after := daemon.connections.statistics()).connections > 1:
                        await trio.sleep(0.001)  # the attacker's end is on its way through the kernel
                    assert grown(before, after) == {name: name == attack.counted for name in COUNTED}, attack.name
                    assert after.held == Holdings(), attack.name
                    if attack.costs == "nothing":  # a call as the one behind it, and the neighbour's
                        assert after.calls_served - before.calls_served == 3, attack.name


async def test_no_spelling_of_a_method_gets_a_reader_around_the_policy(pki: TestPki, tmp_path: Path) -> None:
    """Of each method that is not a reader's: PERMISSION_DENIED by its name, and no method by any other."""
    async with open_daemon(pki, tmp_path / "state") as daemon:
        server = daemon.address.replace("127.0.0.1", "localhost")
        with trio.fail_after(patient(30)):
            answers = await trio.to_thread.run_sync(all_spellings, server, pki)
    assert answers == Counter(answer for _, answer in spellings())
    assert {path for path, answer in spellings() if answer == "PERMISSION_DENIED"} == WRITERS


def all_spellings(server: str, pki: TestPki) -> Counter[str]:
    with RawPeer(server, pki.context("rita")).begin() as peer:
        return Counter(tried(peer, *each) for each in spellings())


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
