"""Cutting DATA into messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import InternalError, ResourceExhaustedError, UnimplementedError
from api.messages import QueryRequest
from api.rpc.codec import PREFIX, MessageReader, decode, encode


def framed(message: bytes) -> bytes:
    return PREFIX.pack(False, len(message)) + message


@given(st.lists(st.binary(max_size=50)), st.data())
def test_messages_come_out_as_they_went_in_however_they_are_cut(messages: list[bytes], data: st.DataObject) -> None:
    """Any cutting of the same bytes gives the same messages, and all flow-control credit comes back with them."""
    reader = MessageReader()
    wire = b"".join(map(framed, messages))
    got: list[bytes] = []
    credit = position = 0
    while position < len(wire):
        size = data.draw(st.integers(1, len(wire) - position))
        for message, returned in reader.feed(wire[position : position + size], size):
            got.append(message)
            credit += returned
        position += size
    assert got == messages
    assert credit == len(wire)
    assert not reader.incomplete


def test_padding_is_credited_too() -> None:
    """The flow-controlled length of a padded frame is more than its data; the difference must not leak the window."""
    reader = MessageReader()
    [(_, credit)] = reader.feed(framed(b"abc"), 8 + 100)
    assert credit == 108


def test_a_message_over_the_limit_is_refused_at_its_prefix() -> None:
    """Not one byte of it is kept."""
    with pytest.raises(ResourceExhaustedError) as caught:
        MessageReader(limit=10).feed(PREFIX.pack(False, 11), 5)
    assert caught.value.reason == "MESSAGE_TOO_LARGE"


def test_a_compressed_message_is_unimplemented() -> None:
    """Nothing was offered in grpc-accept-encoding, so nothing needs to be understood (or can explode)."""
    with pytest.raises(UnimplementedError):
        MessageReader().feed(PREFIX.pack(True, 1) + b"x", 6)


def test_an_incomplete_message_is_known_as_such() -> None:
    """So that an end of the stream in the middle of a message is an error."""
    reader = MessageReader()
    reader.feed(framed(b"abc")[:-1], 7)
    assert reader.incomplete


def test_bytes_that_are_no_message_are_an_internal_error() -> None:
    """Whatever the parser raises, the peer is told what gRPC's statuscodes.md names for a failed parse."""
    with pytest.raises(InternalError):
        decode(QueryRequest, b"\x0a\xff")


def test_a_message_survives_the_wire() -> None:
    """Encode and decode are inverse."""
    assert decode(QueryRequest, encode(QueryRequest(job_id="x"))) == QueryRequest(job_id="x")
