"""Sieges of those who are no connection yet. The neighbour beside them makes a new one for each call."""

from __future__ import annotations

import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from tests.hostile.expected import CONNECTIONS, HANDSHAKES, Expected
from tests.hostile.siege import Siege, Site
from tests.support.patience import patient

PLACES: Final = 128
"""Those that shake hands at once, as docs/security.md has it."""
LIMIT: Final = 12.0
"""Seconds after which the server has sent away who is slow, and a bit."""
PATIENCE: Final = 8.0
"""Seconds after which one that is slow is sent away, less some."""
SILENT: Final = 400
SLOW: Final = 200


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


def ended(crowd: list[socket.socket]) -> Counter[str]:
    """How many the server has closed."""
    found: Counter[str] = Counter()
    for each in crowd:
        each.setblocking(False)
        try:
            found["closed" if not each.recv(65536) else "answered"] += 1
        except BlockingIOError:
            found["open"] += 1
        except OSError:
            found["closed"] += 1
    return found


def left(crowd: list[socket.socket], begun: float) -> Counter[str]:
    """How many there are when no more are left than may shake hands: long before their time is up."""
    while True:
        found = ended(crowd)
        if found["open"] <= PLACES or time.monotonic() > begun + PATIENCE:
            return found
        time.sleep(0.05)


def silence(site: Site) -> Counter[str]:
    begun = time.monotonic()
    with crowd(site, SILENT) as all_of_them:
        site.over.wait()
        return left(all_of_them, begun)


def slowly(site: Site) -> Counter[str]:
    """A byte at a time."""
    text, begun = hello(), time.monotonic()
    with crowd(site, SLOW) as all_of_them:
        for byte in text:
            for each in all_of_them:
                try:
                    each.send(bytes([byte]))
                except OSError:
                    continue
            if site.over.wait(0.01):
                break
        return left(all_of_them, begun)


def a_thousand_at_once(site: Site) -> Counter[str]:
    """All have begun before the first goes on."""
    answers: Counter[str] = Counter()
    context = site.pki.context("rita")
    while not (site.over.is_set() and answers):
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
            answers.update(fates(begun))
    return answers


def fates(begun: list[ssl.SSLSocket]) -> Iterator[str]:
    """What becomes of each, when it is known of all: at the latest when the server has sent away who is slow."""
    waiting, until = begun, time.monotonic() + patient(LIMIT)
    while waiting and time.monotonic() < until:
        time.sleep(0.05)
        fate = {each: is_taken(each) for each in waiting}
        yield from ("taken" if taken else "closed" for taken in fate.values() if taken is not None)
        waiting = [each for each, taken in fate.items() if taken is None]
    yield from ("never heard of" for _ in waiting)


def shake(made: ssl.SSLSocket) -> str:
    try:
        made.do_handshake()
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return "more"
    except OSError:
        return "refused"
    return "done"


def is_taken(made: ssl.SSLSocket) -> bool | None:
    """The server speaks HTTP/2 with it; None while that is not known."""
    try:
        return bool(made.recv(65536))
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return None
    except OSError:
        return False


def _places(count: int) -> Expected:
    """So many who come to nothing, and keep no more places than there are."""
    return Expected({"closed": count - PLACES}, frozenset({"open"}), count, {"closed": HANDSHAKES, "open": HANDSHAKES})


HANDSHAKE_SIEGES: Final = (
    Siege("silent connections", silence, _places(SILENT), anew=True),
    Siege("slow handshakes", slowly, _places(SLOW), anew=True),
    Siege(
        "1,000 handshakes at once",
        a_thousand_at_once,
        Expected({"taken": 1}, frozenset({"closed"}), 1000, {"taken": CONNECTIONS, "closed": HANDSHAKES}),
        anew=True,
    ),
)
