"""The form of records on disk."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jobd.output.record import HEADER, pack, unpack_all
from jobd.worker.ports import Record, Source

records = st.lists(
    st.tuples(st.sampled_from(Source), st.integers(0, 2**63), st.binary(min_size=1, max_size=40)), max_size=8
)


def build(parts: list[tuple[Source, int, bytes]]) -> list[Record]:
    built, offset = [], 0
    for source, time, data in parts:
        built.append(Record(offset, source, time, data))
        offset += len(data)
    return built


def wire(built: list[Record]) -> bytes:
    return b"".join(piece for record in built for piece in pack(record))


@given(records)
def test_records_survive_the_disk(parts: list[tuple[Source, int, bytes]]) -> None:
    """What is unpacked is what was packed, whole."""
    built = build(parts)
    assert unpack_all(wire(built)) == (built, len(wire(built)))


@given(records, st.data())
def test_a_torn_tail_ends_the_log_at_the_last_whole_record(
    parts: list[tuple[Source, int, bytes]], data: st.DataObject
) -> None:
    """Cut anywhere: exactly the records that are whole come back, and the place where they end."""
    built = build(parts)
    cut = data.draw(st.integers(0, len(wire(built))))
    whole, size = unpack_all(wire(built)[:cut])
    assert whole == built[: len(whole)]
    assert size == len(wire(whole)) <= cut
    assert len(whole) == len(built) or len(wire(built[: len(whole) + 1])) > cut


@given(records.filter(bool), st.data())
def test_a_flipped_bit_is_never_given_as_output(parts: list[tuple[Source, int, bytes]], data: st.DataObject) -> None:
    """Wherever it is flipped: what comes out is a true prefix."""
    built = build(parts)
    damaged = bytearray(wire(built))
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    whole, _ = unpack_all(bytes(damaged))
    in_padding = any(
        len(wire(built[:i])) + HEADER.size - 7 <= position < len(wire(built[:i])) + HEADER.size
        for i in range(len(built))
    )
    assert in_padding or whole == built[: len(whole)]
    assert len(whole) < len(built)
