"""Sieges of those who have a connection, or many of them."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from typing import Final

from api import methods
from api.messages import StreamRequest
from api.protobuf import encode
from tests.hostile.attack import QUERY, WATCH, message
from tests.hostile.expected import CONNECTIONS, Count, Expected, counted
from tests.hostile.peer import PATIENCE, RawPeer, with_header
from tests.hostile.siege import Run, Siege, Site, all_counted, call
from tests.support.patience import patient


def calls_without_end(path: str) -> Run:
    """As many as the connection takes, each of them whole."""

    def run(site: Site) -> Counter[str]:
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
        return answers

    return run


def streams_that_are_left(site: Site) -> Counter[str]:
    """Opened on several connections, and never looked at again."""
    with ExitStack() as stack:
        peers = [stack.enter_context(site.peer()) for _ in range(3)]
        for peer in peers:
            for _ in range(500):
                each = peer.next_id()
                peer.send(peer.raw.headers(each, WATCH) + peer.raw.data(each, message(b""), end=True))
        site.over.wait()
        until = time.monotonic() + PATIENCE
        while True:
            for peer in peers:
                peer.settle()
            answers = Counter(peer.answered(each) for peer in peers for each in range(1, 1000, 2))
            if answers["RESOURCE_EXHAUSTED"] >= 500 or time.monotonic() > until:
                return answers


def connections_that_are_held(site: Site) -> Counter[str]:
    """More than one principal may have; somebody else still gets in."""
    with ExitStack() as stack:
        peers: list[RawPeer] = []
        for _ in range(600):
            peers.append(stack.enter_context(site.peer()))
            if not len(peers) % 50:  # whoever is slow has to answer PINGs in time
                for peer in peers:
                    peer.listen()
        site.over.wait()
        answers = Counter(peer.listen() or "open" for peer in peers)
        other = stack.enter_context(site.peer(who="alice"))
        answers[f"somebody else's {other.request()}"] += 1
        return answers


def requests_that_do_not_end(site: Site) -> Counter[str]:
    """Headers, and a message of 4 MiB of which the last byte does not come: as much as the window takes."""
    with ExitStack() as stack:
        peers = [stack.enter_context(site.peer()) for _ in range(4)]
        for peer in peers:
            for _ in range(4):
                each = peer.next_id()
                peer.send(peer.raw.headers(each) + peer.raw.data(each, message(b"", length=4_000_000)))
                for _ in range(120):
                    peer.send(peer.raw.data(each, bytes(32_768)))
            peer.settle()
        site.over.wait()
        return Counter(peer.listen() or "held" for peer in peers)


def following(peer: RawPeer, site: Site) -> tuple[int, bytes]:
    """A call that follows the output: its stream, and what begins it."""
    each = peer.next_id()
    body = message(encode(StreamRequest(job_id=site.job)))
    headers = with_header(path=methods.STREAM.path)
    return each, peer.raw.headers(each, headers) + peer.raw.data(each, body, end=True)


def byte_by_byte(site: Site) -> Counter[str]:
    """Output for a window that is opened by a byte at a time."""
    answers: Counter[str] = Counter()
    while not site.over.is_set():
        with site.peer({4: 0}) as peer:
            each, begin = following(peer, site)
            peer.send(begin)
            while not site.over.is_set() and not peer.listen():
                peer.send(b"".join(peer.raw.window(each, 1) for _ in range(20)))
                peer.settle()
            answers[peer.listen() or ("a byte at a time" if 0 < peer.received < 100_000 else "all at once")] += 1
    return answers


def never_read(site: Site) -> Counter[str]:
    """All windows are wide open, and nobody reads."""
    with ExitStack() as stack:
        for _ in range(20):
            peer = stack.enter_context(site.peer({4: 2**31 - 1}))
            # At once: of a client that does not read, nothing is read when there is something to be sent to it.
            peer.send(peer.raw.window(0, 2**30) + b"".join(following(peer, site)[1] for _ in range(10)))
        site.over.wait()
        until = time.monotonic() + patient(PATIENCE)
        while (there := int(STREAMS.of(site.metrics()))) < 200 and time.monotonic() < until:
            time.sleep(0.1)
    return Counter({"held up": there})  # whoever looked would read


def refused(quota: str) -> Count:
    """By a principal's quota."""
    return counted("quota_refusals_total", reason=quota)


CANCELLED: Final = call("CANCELLED", method="Stream")
STREAMS: Final = counted("open_streams")
TOO_MANY: Final = "GOAWAY ENHANCE_YOUR_CALM"
SIEGES: Final = (
    Siege(
        "calls without end",
        calls_without_end(methods.QUERY.path),
        Expected({"NOT_FOUND": 100}, frozenset({"RESOURCE_EXHAUSTED"}), counted=all_counted("NOT_FOUND")),
    ),
    Siege(
        "calls of nothing without end",
        calls_without_end("/x/y"),
        Expected({"UNIMPLEMENTED": 100}, frozenset({"RESOURCE_EXHAUSTED"}), counted=all_counted("UNIMPLEMENTED")),
    ),
    Siege(
        "streams that are left",
        streams_that_are_left,
        Expected(
            {"open": 1000, "RESOURCE_EXHAUSTED": 500},
            either=1500,
            counted={"open": call("CANCELLED", method="Watch"), "RESOURCE_EXHAUSTED": refused("TOO_MANY_STREAMS")},
        ),
    ),
    Siege(
        "connections that are held",
        connections_that_are_held,
        Expected(
            {"open": 512, TOO_MANY: 88, "somebody else's NOT_FOUND": 1},
            counted={"open": CONNECTIONS, TOO_MANY: refused("TOO_MANY_CONNECTIONS")},
        ),
        anew=True,
    ),
    Siege(
        "requests that do not end",
        requests_that_do_not_end,
        Expected({"held": 4}, counted={"held": call("CANCELLED", method="Query")}),
    ),
    Siege(
        "a window of bytes", byte_by_byte, Expected({"a byte at a time": 1}, counted={"a byte at a time": CANCELLED})
    ),
    Siege("streams that nobody reads", never_read, Expected({"held up": 200}, counted={"held up": CANCELLED})),
)
