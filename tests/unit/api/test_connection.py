"""The protocol without I/O: one connection's bytes in, events out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
from h2.errors import ErrorCodes

from api.errors import FieldViolation, InvalidArgumentError, ResourceExhaustedError
from api.rpc.codec import PREFIX
from api.rpc.connection import Connection
from api.rpc.events import (
    GoAway,
    MessageReceived,
    RequestEnded,
    RequestReceived,
    ResponseEnded,
    StreamFailed,
    StreamReset,
)
from api.rpc.frames import DATA, header

CALL = [
    (":method", "POST"),
    (":scheme", "https"),
    (":path", "/service/Method"),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


class Peer:
    """A plain h2 client in front of the connection under test, able to send what a gRPC client would not."""

    def __init__(self) -> None:
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding="utf-8",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.h2 = h2.connection.H2Connection(config)
        self.connection = Connection(client_side=False)
        self.connection.initiate_connection()
        self.h2.initiate_connection()
        self.exchange()

    def exchange(self) -> tuple[list[Any], list[Any]]:
        """Let the bytes of both flow; what the server and what the client made of them."""
        at_server = self.connection.receive_data(self.h2.data_to_send())
        at_client = self.h2.receive_data(self.connection.data_to_send())
        return at_server, at_client

    def call(self, headers: list[tuple[str, str]] = CALL, data: bytes | None = None, *, end: bool = False) -> int:
        stream_id: int = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, headers, end_stream=end and data is None)
        if data is not None:
            self.h2.send_data(stream_id, data, end_stream=end)
        return stream_id


@pytest.fixture
def peer() -> Peer:
    return Peer()


def types(events: list[Any]) -> list[type]:
    return [type(event) for event in events]


def test_a_call_is_a_request_its_message_and_its_end(peer: Peer) -> None:
    """In this order, and nothing else."""
    peer.call(data=PREFIX.pack(False, 2) + b"hi", end=True)
    at_server, _ = peer.exchange()
    assert types(at_server) == [RequestReceived, MessageReceived, RequestEnded]
    assert at_server[1].data == (b"hi",)


def test_a_request_without_a_body_is_a_request_that_ended(peer: Peer) -> None:
    """It is the handler's to say that one message was wanted; purerpc would end the connection."""
    peer.call(end=True)
    assert types(peer.exchange()[0]) == [RequestReceived, RequestEnded]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda: [*CALL, ("x-evil", "a\r\nb")],
        lambda: [*CALL, (":path", "/again/Again")],
    ],
)
def test_malformed_headers_cost_their_stream_only(peer: Peer, spoil: Callable[[], list[tuple[str, str]]]) -> None:
    """RST_STREAM for the one, and the next call on the connection goes through."""
    bad = peer.call(spoil())
    at_server, at_client = peer.exchange()
    assert at_server == []
    assert [(e.stream_id, e.error_code) for e in at_client if isinstance(e, h2.events.StreamReset)] == [
        (bad, ErrorCodes.PROTOCOL_ERROR)
    ]
    peer.call(data=PREFIX.pack(False, 0), end=True)
    assert types(peer.exchange()[0]) == [RequestReceived, MessageReceived, RequestEnded]


def test_what_is_no_grpc_call_is_answered_with_its_http_status(peer: Peer) -> None:
    """415 for another content type, in one HEADERS frame that ends the stream."""
    peer.call([(k, "text/plain" if k == "content-type" else v) for k, v in CALL], end=True)
    at_server, at_client = peer.exchange()
    assert at_server == []
    [response] = [e for e in at_client if isinstance(e, h2.events.ResponseReceived)]
    assert dict(response.headers)[":status"] == "415"
    assert response.stream_ended is not None


def test_an_oversized_message_is_an_event_of_its_stream(peer: Peer) -> None:
    """The connection goes on."""
    stream_id = peer.call(data=PREFIX.pack(False, 2**31) + b"x")
    at_server, _ = peer.exchange()
    assert types(at_server) == [RequestReceived, StreamFailed]
    assert at_server[1].stream_id == stream_id
    peer.call(data=PREFIX.pack(False, 0), end=True)
    assert RequestEnded in types(peer.exchange()[0])


def test_a_request_that_ends_inside_a_message_fails(peer: Peer) -> None:
    """A cut message is never handed to anyone."""
    peer.call(data=PREFIX.pack(False, 5) + b"ab", end=True)
    assert types(peer.exchange()[0]) == [RequestReceived, StreamFailed]


def test_data_for_a_call_that_ended_here_does_no_harm(peer: Peer) -> None:
    """What was on its way when we answered is dropped, and its window given back."""
    stream_id = peer.call()
    peer.exchange()
    peer.h2.send_data(stream_id, b"x" * 1000)
    late = peer.h2.data_to_send()
    peer.connection.finish(stream_id, None, response_started=False)
    assert peer.connection.receive_data(late) == []
    peer.h2.receive_data(peer.connection.data_to_send())
    peer.call(data=PREFIX.pack(False, 0), end=True)
    assert RequestEnded in types(peer.exchange()[0])


def test_what_was_on_its_way_when_we_reset_a_stream_is_ignored(peer: Peer) -> None:
    """A large message that was refused at its prefix: no answer to the rest of it, no offence, and a small price."""
    stream_id = peer.call(data=PREFIX.pack(False, 2**31))
    peer.exchange()
    peer.connection.finish(stream_id, ResourceExhaustedError("too much"), response_started=False)
    peer.connection.receive_data(peer.h2.data_to_send())
    offences, left = peer.connection.offences, peer.connection.h2_connection.patience.left
    peer.connection.data_to_send()
    for _ in range(100):
        late = header(1000, DATA, 0, stream_id) + bytes(1000)
        assert peer.connection.receive_data(late) == []
    assert peer.connection.data_to_send() == b""
    assert peer.connection.offences == offences
    assert left - peer.connection.h2_connection.patience.left == 100


def test_a_late_window_update_does_no_harm(peer: Peer) -> None:
    """One for a stream that has ended and was forgotten is allowed (RFC 9113, 5.1); h2 ends the connection for it."""
    stream_id = peer.call(data=PREFIX.pack(False, 0), end=True)
    peer.exchange()
    peer.connection.finish(stream_id, None, response_started=False)
    _ = peer.connection.h2_connection.open_inbound_streams  # this makes h2 forget it
    peer.h2.increment_flow_control_window(1000, stream_id)
    late = peer.h2.data_to_send()
    assert peer.connection.receive_data(late) == []
    peer.h2.receive_data(peer.connection.data_to_send())
    peer.call(data=PREFIX.pack(False, 0), end=True)
    assert RequestEnded in types(peer.exchange()[0])


def test_a_reset_is_an_event(peer: Peer) -> None:
    """purerpc leaves the handler of a cancelled call running for ever."""
    stream_id = peer.call()
    peer.h2.reset_stream(stream_id, ErrorCodes.CANCEL)
    at_server, _ = peer.exchange()
    assert at_server[-1] == StreamReset(stream_id, ErrorCodes.CANCEL)


def test_after_goaway_open_calls_go_on(peer: Peer) -> None:
    """RFC 9113, 6.8; h2 by itself forbids every frame after GOAWAY."""
    client, server = Connection(client_side=True), Connection(client_side=False)
    client.initiate_connection()
    server.initiate_connection()
    stream_id = client.get_next_available_stream_id()
    client.start_request(stream_id, "https", "service", "Method", authority="x")
    server.receive_data(client.data_to_send())
    server.send_goaway()
    [goaway] = [e for e in client.receive_data(server.data_to_send()) if isinstance(e, GoAway)]
    assert goaway.last_stream_id == stream_id
    server.finish(stream_id, None, response_started=False)
    [ended] = [e for e in client.receive_data(server.data_to_send()) if isinstance(e, ResponseEnded)]
    assert ended.error is None


def test_an_error_arrives_with_all_its_details() -> None:
    """Code, message (percent-encoded on the way), reason, metadata and field violations (AIP-193)."""
    client, server = Connection(client_side=True), Connection(client_side=False)
    client.initiate_connection()
    server.initiate_connection()
    stream_id = client.get_next_available_stream_id()
    client.start_request(stream_id, "https", "service", "Method", authority="x")
    server.receive_data(client.data_to_send())
    error = InvalidArgumentError(
        "100 % wrong: ümlaut\n", reason="WHY", metadata={"a": "b"}, violations=(FieldViolation("f", "is bad"),)
    )
    server.finish(stream_id, error, response_started=False)
    [ended] = [e for e in client.receive_data(server.data_to_send()) if isinstance(e, ResponseEnded)]
    got = ended.error
    assert isinstance(got, InvalidArgumentError)
    assert (got.message, got.reason, got.metadata, got.violations) == (
        error.message,
        "WHY",
        {"a": "b"},
        error.violations,
    )


def test_more_streams_than_announced_end_the_connection(peer: Peer) -> None:
    """The announced limit is kept by us, too."""
    assert dict(peer.h2.remote_settings)[3] == 1024
