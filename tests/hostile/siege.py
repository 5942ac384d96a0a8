"""What takes many connections, or time: a siege. It goes on until it is told to stop, and says what it met."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from api.address import parse_address
from tests.hostile.attack import Attack
from tests.hostile.expected import STATISTICS, Count, Expected, counted
from tests.hostile.peer import RawPeer
from tests.support.metrics import Samples
from tests.support.pki import TestPki


@dataclass(frozen=True)
class Site:
    """What is besieged, and by whom.

    Attributes:
        job: one that has ended, with much output.
        over: set when it has been long enough.
        metrics: as they were a moment ago.
    """

    server: str
    pki: TestPki
    job: str
    over: threading.Event
    metrics: Callable[[], Samples]

    def peer(self, settings: dict[int, int] | None = None, who: str = "rita") -> RawPeer:
        """A connection of somebody who may only read."""
        return RawPeer(self.server, self.pki.context(who)).begin(settings)

    def plain(self) -> socket.socket:
        """A connection without TLS."""
        return socket.create_connection(parse_address(self.server), 10)


Run = Callable[[Site], Counter[str]]


@dataclass(frozen=True)
class Siege:
    """As :class:`tests.hostile.attack.Attack`.

    Attributes:
        anew: the neighbour makes a connection for each call: one that it had before would know nothing of a siege that
            keeps others from getting in.
    """

    name: str
    run: Run
    expected: Expected
    anew: bool = False


def again_and_again(attack: Attack) -> Siege:
    """On one connection, as long as that lasts; then on the next. Once at least, however short the siege is."""

    def run(site: Site) -> Counter[str]:
        answers: Counter[str] = Counter()
        while not (site.over.is_set() and answers):
            with site.peer() as peer:
                while not (site.over.is_set() and answers) and not peer.listen():
                    answers[attack.run(peer)] += 1
        return answers

    # Who offends thousands of times is a flood at last, and sent away as one.
    tired = {"GOAWAY ENHANCE_YOUR_CALM": "sent_away"} if attack.costs == "stream" else {}
    may_be = {attack.answer: attack.counted, **attack.others, **tired}
    counts = {answer: _count(answer, field) for answer, field in may_be.items()}
    # Where something else may be answered as well, it is the metrics that say what it was.
    least: dict[str, int] = {} if attack.others else {attack.answer: 1}
    return Siege(attack.name, run, Expected(least, frozenset(may_be), counted=counts))


def _count(answer: str, field: str) -> Count:
    return STATISTICS[field] if field else call(answer)


def call(code: str, **labels: str) -> Count:
    """Calls that ended so."""
    return counted("calls_total", code=code, **labels)


def all_counted(*codes: str) -> dict[str, Count]:
    """Each answer as the call that it is."""
    return {code: call(code) for code in codes}
