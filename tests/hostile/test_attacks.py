"""Each attack over real TLS: its answer is the standard's, it costs its own stream or connection, and it is counted.

The floods are tested without a network (``tests/unit/api/test_patience.py``); ``nox -s hostile`` sends them too.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from api.client import JobClient
from api.errors import NotFoundError
from api.rpc.statistics import Holdings
from tests.hostile.attacks import ON_A_STREAM, ON_THE_CONNECTION, Attack
from tests.hostile.peer import RawPeer
from tests.support.daemon import open_daemon
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
        with trio.fail_after(20):
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
