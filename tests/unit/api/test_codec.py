"""Cutting DATA into messages."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import InternalError, InvalidArgumentError, ResourceExhaustedError, UnimplementedError
from api.messages import JobSpec, Limits, QueryRequest, StartRequest
from api.rpc.codec import LARGE, PREFIX, MessageReader, Parts, decode, encode, encode_request, whole


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
            got.append(bytes(whole(message)))
            credit += returned
        position += size
    assert got == messages
    assert credit == len(wire)
    assert not reader.incomplete


@given(st.integers(0, 3 * LARGE), st.lists(st.integers(1, 2 * LARGE), min_size=1))
def test_a_large_message_is_kept_in_the_pieces_that_it_came_in(size: int, cuts: list[int]) -> None:
    """Byte for byte; the large ones are not joined, and small ones do not stand alone."""
    message = bytes(range(251)) * (size // 251 + 1)
    message = message[:size]
    reader = MessageReader()
    wire, got = memoryview(framed(message)), list[Parts]()
    for cut in itertools.cycle(cuts):
        got += [parts for parts, _ in reader.feed(wire[:cut], len(wire[:cut]))]
        wire = wire[cut:]
        if not wire:
            break
    [parts] = got
    assert whole(parts) == message
    if len(parts) > 1:
        assert not any(len(a) < LARGE and len(b) < LARGE for a, b in itertools.pairwise(parts))
        assert reader.uncredited == 0


def test_a_message_in_single_bytes_costs_no_more_than_its_bytes() -> None:
    """An object for each would be sixty times as much."""
    reader = MessageReader()
    wire = framed(bytes(5000))
    got = [parts for n in range(len(wire)) for parts, _ in reader.feed(wire[n : n + 1], 1)]
    assert got == [(bytes(5000),)]


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


def test_a_request_that_cannot_be_sent_is_refused_as_a_server_would() -> None:
    """By the name of the field."""
    with pytest.raises(InvalidArgumentError) as refused:
        encode_request(StartRequest(JobSpec(["true"], limits=Limits(memory_bytes=2**64 + 5000))))
    [violation] = refused.value.violations
    assert violation.field == "spec.limits.memory_bytes"
    assert violation.description.startswith("is 18446744073709556616, and not between -9223372036854775808 and ")
    assert refused.value.message == f"{violation.field} {violation.description}"
