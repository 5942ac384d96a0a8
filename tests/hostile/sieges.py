"""What takes many connections, or time. Each goes on until it is told to stop, and says what it met."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from api import methods
from api.address import parse_address
from api.messages import QueryRequest, StreamRequest
from api.protobuf import encode
from tests.hostile.attacks import QUERY, WATCH, Attack, message
from tests.hostile.peer import RawPeer, with_header
from tests.support.pki import TestPki


@dataclass(frozen=True)
class Site:
    """What is besieged, and by whom.

    Attributes:
        job: one that has ended, with much output.
        over: set when it has been long enough.
    """

    server: str
    pki: TestPki
    job: str
    over: threading.Event

    def peer(self, settings: dict[int, int] | None = None, who: str = "rita") -> RawPeer:
        """A connection of somebody who may only read."""
        return RawPeer(self.server, self.pki.context(who)).begin(settings)

    def plain(self) -> socket.socket:
        """A connection without TLS."""
        return socket.create_connection(parse_address(self.server), 10)


Run = Callable[[Site], str]


@dataclass(frozen=True)
class Siege:
    """As :class:`tests.hostile.attacks.Attack`.

    Attributes:
        answer: how what it says has to begin.
    """

    name: str
    run: Run
    answer: str


def again_and_again(attack: Attack) -> Siege:
    """On one connection, as long as that lasts; then on the next. Once at least, however short the siege is."""

    def run(site: Site) -> str:
        answers: Counter[str] = Counter()
        while not (site.over.is_set() and answers):
            with site.peer() as peer:
                while not (site.over.is_set() and answers) and not peer.listen():
                    answers[attack.run(peer)] += 1
        return told(answers)

    return Siege(attack.name, run, attack.answer)


def told(answers: Counter[str]) -> str:
    """The answers, those that came first foremost."""
    return ", ".join(f"{answer} ({count})" for answer, count in answers.items())


# ---- before there is a connection


def hello() -> bytes:
    """What a TLS client says first."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    with_tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    try:
        with_tls.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without a server")


@contextmanager
def crowd(site: Site, count: int) -> Iterator[list[socket.socket]]:
    """So many connections without TLS."""
    with ExitStack() as stack:
        yield [stack.enter_context(site.plain()) for _ in range(count)]


def ended(crowd: list[socket.socket]) -> int:
    """How many the server has closed."""
    count = 0
    for each in crowd:
        each.setblocking(False)
        try:
            count += not each.recv(65536)
        except BlockingIOError:
            pass
        except OSError:
            count += 1
    return count


def silence(site: Site) -> str:
    with crowd(site, 400) as all_of_them:
        site.over.wait()
        return f"closed: {ended(all_of_them)} of 400"


def slowly(site: Site) -> str:
    """A byte at a time."""
    text = hello()
    with crowd(site, 200) as all_of_them:
        for byte in text:
            for each in all_of_them:
                try:
                    each.send(bytes([byte]))
                except OSError:
                    continue
            if site.over.wait(0.01):
                break
        return f"closed: {ended(all_of_them)} of 200"


def a_thousand_at_once(site: Site) -> str:
    """All have begun before the first goes on."""
    taken = 0
    context = site.pki.context("rita")
    while not site.over.is_set():
        with ExitStack() as stack:
            begun = []
            for _ in range(1000):
                plain = stack.enter_context(site.plain())
                plain.setblocking(False)
                made = stack.enter_context(
                    context.wrap_socket(plain, server_hostname="localhost", do_handshake_on_connect=False)
                )
                shake(made)
                begun.append(made)
            until = time.monotonic() + 5
            waiting = begun
            while waiting and time.monotonic() < until:
                results = [(each, shake(each)) for each in waiting]
                waiting = [each for each, result in results if result == "more"]
            time.sleep(0.2)
            taken = sum(is_taken(each) for each in begun)
    return f"taken: {taken} of 1000, the others closed"


def shake(made: ssl.SSLSocket) -> str:
    try:
        made.do_handshake()
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return "more"
    except OSError:
        return "refused"
    return "done"


def is_taken(made: ssl.SSLSocket) -> bool:
    """The server speaks HTTP/2 with it."""
    try:
        return bool(made.recv(65536))
    except OSError:
        return False


# ---- with a connection


def calls_without_end(path: str) -> Run:
    """As many as the connection takes, each of them whole."""

    def run(site: Site) -> str:
        answers: Counter[str] = Counter()
        headers = with_header(path=path)
        while not site.over.is_set():
            with site.peer() as peer:
                while not site.over.is_set() and not peer.listen():
                    ids = [peer.next_id() for _ in range(100)]
                    whole = [
                        peer.raw.headers(each, headers) + peer.raw.data(each, message(QUERY), end=True) for each in ids
                    ]
                    peer.send(b"".join(whole))
                    answers.update(peer.outcome(each) for each in ids)
        return told(answers)

    return run


def streams_that_are_left(site: Site) -> str:
    """Opened on several connections, and never looked at again."""
    with ExitStack() as stack:
        peers = [stack.enter_context(site.peer()) for _ in range(3)]
        for peer in peers:
            for _ in range(500):
                each = peer.next_id()
                peer.send(peer.raw.headers(each, WATCH) + peer.raw.data(each, message(b""), end=True))
        site.over.wait()
        for peer in peers:
            peer.settle()
        return told(Counter(peer.answered(each) for peer in peers for each in range(1, 1000, 2)))


def connections_that_are_held(site: Site) -> str:
    """More than one principal may have; somebody else still gets in."""
    with ExitStack() as stack:
        peers = [stack.enter_context(site.peer()) for _ in range(600)]
        site.over.wait()
        answers = Counter(peer.listen() or "open" for peer in peers)
        other = stack.enter_context(site.peer(who="alice"))
        answers[f"somebody else's {other.request()}"] += 1
        return told(answers)


def requests_that_do_not_end(site: Site) -> str:
    """Headers, and a message of 4 MiB of which the last byte does not come: as much as the window takes."""
    with ExitStack() as stack:
        for _ in range(4):
            peer = stack.enter_context(site.peer())
            for _ in range(4):
                each = peer.next_id()
                peer.send(peer.raw.headers(each) + peer.raw.data(each, message(b"", length=4_000_000)))
                for _ in range(120):
                    peer.send(peer.raw.data(each, bytes(32_768)))
            peer.settle()
        site.over.wait()
    return "held: 4 connections, 16 MiB each"


def follow(peer: RawPeer, site: Site) -> int:
    each = peer.next_id()
    body = message(encode(StreamRequest(job_id=site.job)))
    peer.send(peer.raw.headers(each, with_header(path=methods.STREAM.path)) + peer.raw.data(each, body, end=True))
    return each


def byte_by_byte(site: Site) -> str:
    """Output for a window that is opened by a byte at a time."""
    answers: Counter[str] = Counter()
    while not site.over.is_set():
        with site.peer({4: 0}) as peer:
            each = follow(peer, site)
            while not site.over.is_set() and not peer.listen():
                peer.send(b"".join(peer.raw.window(each, 1) for _ in range(20)))
                peer.settle()
            answers[peer.listen() or "served a byte at a time"] += 1
    return told(answers)


def never_read(site: Site) -> str:
    """All windows are wide open, and nobody reads."""
    with ExitStack() as stack:
        for _ in range(20):
            peer = stack.enter_context(site.peer({4: 2**31 - 1}))
            peer.send(peer.raw.window(0, 2**30))
            for _ in range(10):
                follow(peer, site)
        site.over.wait()
    return "held up: 200 streams"


def every_spelling(site: Site) -> str:
    """A reader looks for a way around the policy."""
    answers: Counter[str] = Counter()
    paths = [method.path for method in methods.METHODS if method.role == "writer"]
    forms = ("{}", "{}/", "/{}", "{}?", "{}%00", "{}.", "{} ")
    spellings = [
        *(form.format(path) for path in paths for form in forms),
        *(path.lower() for path in paths),
        *(path.upper() for path in paths),
        *(path.replace("jobworker", "Jobworker") for path in paths),
        *(path.replace("/", "//", 1) for path in paths),
    ]
    while not site.over.is_set():
        with site.peer() as peer:
            for path in spellings:
                answers[peer.request(with_header(path=path), message(encode(QueryRequest(site.job))))] += 1
    return told(answers)


SIEGES: Final = (
    Siege("silent connections", silence, "closed"),
    Siege("slow handshakes", slowly, "closed"),
    Siege("1,000 handshakes at once", a_thousand_at_once, "taken"),
    Siege("calls without end", calls_without_end(methods.QUERY.path), "NOT_FOUND"),
    Siege("calls of nothing without end", calls_without_end("/x/y"), "UNIMPLEMENTED"),
    Siege("every spelling of a method", every_spelling, "PERMISSION_DENIED"),
    Siege("streams that are left", streams_that_are_left, "open (1000), RESOURCE_EXHAUSTED (500)"),
    Siege(
        "connections that are held",
        connections_that_are_held,
        "open (512), GOAWAY ENHANCE_YOUR_CALM (88), somebody else's NOT_FOUND (1)",
    ),
    Siege("requests that do not end", requests_that_do_not_end, "held"),
    Siege("a window of bytes", byte_by_byte, "served"),
    Siege("streams that nobody reads", never_read, "held up"),
)
