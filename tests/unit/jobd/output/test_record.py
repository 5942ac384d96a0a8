"""The form of the index on disk."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jobd.output.record import END, ENTRY, GAP, Entry, unpack_all

u64 = st.integers(0, 2**64 - 1)
entries = st.lists(
    st.builds(Entry, st.sampled_from([1, 2, GAP, END]), u64, u64, u64, st.integers(0, 2**32 - 1)), max_size=8
)


def wire(built: list[Entry]) -> bytes:
    return b"".join(entry.pack() for entry in built)


@given(entries)
def test_entries_survive_the_disk(built: list[Entry]) -> None:
    """What is unpacked is what was packed."""
    assert unpack_all(wire(built)) == built


@given(entries, st.data())
def test_a_torn_tail_is_left_out(built: list[Entry], data: st.DataObject) -> None:
    """Cut anywhere: exactly the entries that are whole come back."""
    cut = data.draw(st.integers(0, len(wire(built))))
    assert unpack_all(wire(built)[:cut]) == built[: cut // ENTRY.size]


@given(entries.filter(bool), st.data())
def test_a_flipped_bit_ends_the_index(built: list[Entry], data: st.DataObject) -> None:
    """Wherever it is flipped: what comes back is a true prefix."""
    damaged = bytearray(wire(built))
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    assert unpack_all(bytes(damaged)) == built[: position // ENTRY.size]
