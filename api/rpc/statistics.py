"""What a server's connections hold, and what became of them: one look inside, for operators and tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import h2.exceptions

from api.rpc.session import Session
from api.rpc.share import Share


@dataclass(frozen=True, slots=True)
class Holdings:
    """What one connection holds, or several together.

    Attributes:
        calls: that are open.
        unread_bytes: of requests that no handler has taken yet, and of such that are not whole.
        ready_bytes: that wait for the peer's windows, or for their turn.
        unsent_bytes: that were sent, and that the kernel has not taken yet.
    """

    calls: int = 0
    unread_bytes: int = 0
    ready_bytes: int = 0
    unsent_bytes: int = 0

    def __add__(self, other: Holdings) -> Holdings:
        return Holdings(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of all connections of a server.

    Attributes:
        connections: that are open.
        connections_served: so far, the open ones included.
        calls_served: so far, the open ones included.
        sent_away: connections that were ended because they asked for too much that is no call.
        broke_protocol: connections that were ended for another violation of HTTP/2.
        offences: streams that were reset or refused for what their peer did: malformed, no call, no message.
        handshakes_refused: connections that were closed before they were any.
        received, sent: bytes so far, of HTTP/2 (of the largest frames, what is in them).
        held: what the open ones hold together.
    """

    connections: int
    connections_served: int
    calls_served: int
    sent_away: int
    broke_protocol: int
    offences: int
    handshakes_refused: int
    received: int
    sent: int
    held: Holdings


def holdings(session: Session) -> Holdings:
    """What a connection holds."""
    unread = sum(stream.unread for stream in session.streams.values())
    return Holdings(
        calls=len(session.streams),
        unread_bytes=unread + session.connection.incomplete_bytes,
        ready_bytes=sum(stream.ready for stream in session.streams.values()),
        unsent_bytes=session.transport.pending + session.connection.unsent,
    )


class Connections:
    """The connections of a server.

    Attributes:
        share: what all their calls hold together.
    """

    def __init__(self) -> None:
        self.share = Share()
        self._open: set[Session] = set()
        self._served = self._calls = self._sent_away = self._broke_protocol = self._offences = 0
        self._handshakes_refused = self._received = self._sent = 0

    @contextmanager
    def count(self, session: Session) -> Iterator[None]:
        """The block is the life of a connection."""
        self._open.add(session)
        self._served += 1
        try:
            yield
        except h2.exceptions.DenialOfServiceError:
            self._sent_away += 1
            raise
        except h2.exceptions.ProtocolError:
            self._broke_protocol += 1
            raise
        finally:
            self._open.discard(session)
            self._calls += session.opened
            self._offences += session.connection.offences
            self._received += session.received
            self._sent += session.sent

    def refuse_handshake(self) -> None:
        """One more did not become a connection."""
        self._handshakes_refused += 1

    def statistics(self) -> Statistics:
        """As of now."""
        return Statistics(
            connections=len(self._open),
            connections_served=self._served,
            calls_served=self._calls + sum(session.opened for session in self._open),
            sent_away=self._sent_away,
            broke_protocol=self._broke_protocol,
            offences=self._offences + sum(session.connection.offences for session in self._open),
            handshakes_refused=self._handshakes_refused,
            received=self._received + sum(session.received for session in self._open),
            sent=self._sent + sum(session.sent for session in self._open),
            held=sum(map(holdings, self._open), Holdings()),
        )
