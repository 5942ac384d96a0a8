"""Pieces of output, taken out of their messages as they came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.messages import Gap, Output, OutputSource, StreamResponse
from api.output import HEAD, piece_of
from api.protobuf import decode
from api.rpc.codec import Parts, encode
from jobd.service.translate import output_message
from jobd.worker.ports import Record, Source

LARGE = 16 * 1024
DATA = bytes(range(256)) * (2 * LARGE // 256)


def message(offset: int, source: Source, time: int, size: int) -> bytes:
    """What our server sends."""
    return b"".join(output_message(Record(offset, source, time, DATA[:size])))


def cut(wire: bytes, places: list[int]) -> Parts:
    """The same in several parts."""
    ends = [*sorted(place % (len(wire) + 1) for place in places), len(wire)]
    starts = [0, *ends[:-1]]
    return tuple(wire[a:b] for a, b in zip(starts, ends, strict=True) if b > a)


@given(
    st.integers(0, 2**63 - 1),
    st.sampled_from(Source),
    st.integers(0, 2**61),
    st.integers(0, 100) | st.integers(LARGE, len(DATA)),
    st.lists(st.integers(0, 2**20)),
)
def test_it_is_what_decoding_gives(offset: int, source: Source, time: int, size: int, places: list[int]) -> None:
    """However the message was cut on its way; or nothing, if its first bytes are not together."""
    wire = message(offset, source, time, size)
    parts = cut(wire, places)
    piece = piece_of(parts)
    if piece is None:
        assert len(parts[0]) < min(HEAD, len(wire))
        return
    assert piece.message == decode(StreamResponse, wire).output
    assert b"".join(piece.data) == DATA[:size]
    assert piece.end == offset + size


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(message(7, Source.STDOUT, 1, 5)[:-1], id="small, and cut"),
        pytest.param(encode(StreamResponse(gap=Gap(3, 4))), id="another event"),
        pytest.param(message(7, Source.STDOUT, 1, LARGE)[:-1], id="cut"),
        pytest.param(message(7, Source.STDOUT, 1, LARGE) + b"\x12\0", id="another event behind it"),
        pytest.param(message(7, Source.STDOUT, 1, LARGE) * 2, id="twice"),
        pytest.param(b"\x0a" + b"\xff" * 11 + DATA, id="a length that is none"),
        pytest.param(
            encode(StreamResponse(output=Output(data=DATA, offset=1))).replace(b"\x10\x01", b"\x28\x01"),
            id="another field",
        ),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_is_anything_else_is_left_to_decoding(wire: bytes) -> None:
    """Which knows what to make of it, or what is wrong."""
    assert piece_of((wire,)) is None


def test_another_order_of_fields_is_left_to_decoding() -> None:
    """Fields may come in any order (protobuf.dev, Encoding)."""
    inner = b"\x18\x01\x0a\x80\x80\x02" + DATA[: LARGE * 2]
    wire = b"\x0a\x86\x80\x02" + inner
    assert decode(StreamResponse, wire).output.source == OutputSource.STDOUT
    assert piece_of((wire,)) is None
