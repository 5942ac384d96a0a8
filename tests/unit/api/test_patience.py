"""Floods: what a peer sends that is no call costs its own connection, and little else."""

from __future__ import annotations

import time

import h2.exceptions
import pytest

from api.rpc import frames
from api.rpc.connection import Connection
from api.rpc.events import RequestReceived
from api.rpc.patience import CAPACITY, FOR_BIG, NEW_SETTINGS, PER_SECOND, RESET, Patience
from tests.support.floods import FLOODS, Flood
from tests.support.wire import RawClient


def connected(raw: RawClient) -> Connection:
    """A server's side; stream 1 is open, 3 has ended."""
    connection = Connection(client_side=False)
    connection.initiate_connection()
    connection.receive_data(raw.begin() + raw.headers(1) + raw.headers(3, end=True))
    connection.finish(3, None, response_started=False)
    connection.forget(3)
    connection.data_to_send()
    return connection


@pytest.mark.parametrize("flood", FLOODS.values(), ids=list(FLOODS))
def test_a_flood_ends_its_own_connection(flood: Flood) -> None:
    """With ENHANCE_YOUR_CALM, after a bounded number of frames, in bounded memory."""
    raw = RawClient()
    connection = connected(raw)
    made = connection.h2_connection
    refused = None
    for number in range(int(CAPACITY) * 2):
        try:
            connection.receive_data(flood(raw, number))
        except h2.exceptions.DenialOfServiceError as exc:
            refused = exc
            break
        assert len(connection.data_to_send()) < 200
        for stream_id in [stream_id for stream_id in made.streams if stream_id > 3]:
            connection.forget(stream_id)
        assert len(made.streams) <= 2
        assert len(made.remote_settings) < 10
        assert len(made._closed_streams) <= made.MAX_CLOSED_STREAMS
    assert refused
    assert connection.data_to_send()[3] == frames.GOAWAY


def test_whoever_is_served_has_credit() -> None:
    """Ten thousand calls, each with a PING, a window update and a reset behind its answer, are nobody's flood."""
    raw, connection = RawClient(), Connection(client_side=False)
    connection.initiate_connection()
    connection.receive_data(raw.begin())
    for stream_id in range(1, 20_000, 2):
        events = connection.receive_data(raw.headers(stream_id) + raw.ping() + raw.window(0, 1))
        assert isinstance(events[0], RequestReceived)
        connection.respond(stream_id, b"")
        connection.data_to_send()
        connection.receive_data(raw.reset(stream_id))
        connection.forget(stream_id)


def test_time_pays_in() -> None:
    """So much a second, and never more than the account holds."""
    now = 0.0
    patience = Patience(lambda: now)
    for _ in range(int(CAPACITY)):
        patience.hear(frames.PING, 0, 8)
    now = 1.0
    for _ in range(int(PER_SECOND)):
        patience.hear(frames.PING, 0, 8)
    with pytest.raises(h2.exceptions.DenialOfServiceError):
        patience.hear(frames.PING, 0, 8)
    now = 1e9
    for _ in range(int(CAPACITY)):
        patience.hear(frames.PING, 0, 8)
    with pytest.raises(h2.exceptions.DenialOfServiceError):
        patience.hear(frames.SETTINGS, 0, 0)


@pytest.mark.parametrize(
    ("kind", "flags", "length", "price"),
    [
        (frames.DATA, 0, 1, 0),
        (frames.DATA, 0, 0, 1),
        (frames.DATA, frames.PADDED, 9, 1),
        (frames.DATA, frames.END_STREAM, 0, 0),
        (frames.SETTINGS, 0, 12, NEW_SETTINGS + 2),
        (frames.SETTINGS, frames.ACK, 0, 1),
        (frames.RST_STREAM, 0, 4, RESET),
        (frames.HEADERS, 0, 50, 1),
    ],
)
def test_what_a_frame_costs(kind: int, flags: int, length: int, price: int) -> None:
    """Output that is sent and requests that come are what a connection is for."""
    patience = Patience()
    patience.hear(kind, flags, length)
    assert CAPACITY - patience.left == price
    patience.speak(100_000)
    assert patience.left == min(CAPACITY, CAPACITY - price + FOR_BIG)


def test_ten_thousand_pings_are_answered_quickly() -> None:
    """The bound on the work that a flood makes is a fraction of a second, also on a slow machine."""
    raw = RawClient()
    connection = connected(raw)
    begun = time.process_time()
    wire = raw.ping() * 1000
    for _ in range(9):
        connection.receive_data(wire)
        connection.data_to_send()
    assert time.process_time() - begun < 5
