"""Header blocks that are remembered: gRPC sends the same few again and again.

A block may be remembered when working it out left the dynamic table as it was (RFC 7541, 2.3.2: a block means what the
table and the block say, and nothing else), for as long as the table is not changed by another block or resized. So
the table counts its changes, and what is remembered is forgotten with the first.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

from hpack.hpack import Decoder, Encoder
from hpack.table import HeaderTable

Key = TypeVar("Key")
Value = TypeVar("Value")

REMEMBERED: Final = 32
"""Blocks that are kept for each direction of a connection."""
LONGEST: Final = 1024
"""Bytes of the longest block that is."""


class _Table(HeaderTable):  # type: ignore[misc] # hpack has no types
    """A header table that counts how often it was changed, and holds no more than its entries.

    (hpack's decoder gives it views, each of which would keep the whole block it was cut from.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.resized: bool = False
        self.changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        super().add(bytes(name), bytes(value))

    @property
    def maxsize(self) -> int:
        return int(super().maxsize)

    @maxsize.setter
    def maxsize(self, size: int) -> None:
        self.changes += 1
        resized = self.resized
        HeaderTable.maxsize.fset(self, size)
        # hpack forgets a change that was not announced yet when the same size is set again.
        self.resized = self.resized or resized


class Memory(Generic[Key, Value]):
    """What was worked out while the table was as it is now."""

    def __init__(self, table: _Table) -> None:
        self._table = table
        self._changes = table.changes
        self._known: dict[Key, Value] = {}

    def recall(self, key: Key) -> Value | None:
        """What was noted for the key, or None."""
        return self._known.get(key) if self._changes == self._table.changes else None

    def note(self, key: Key, value: Value) -> None:
        """Remember, if working it out has not changed the table since the last note."""
        if self._changes != self._table.changes:
            self._known.clear()
            self._changes = self._table.changes
        else:
            if len(self._known) >= REMEMBERED:
                self._known.clear()  # what is seen again is soon known again
            self._known[key] = value


class RememberingEncoder(Encoder):  # type: ignore[misc] # hpack has no types
    """An encoder that looks known header lists up."""

    def __init__(self) -> None:
        super().__init__()
        self.header_table = _Table()
        self._memory: Memory[tuple[Any, ...], bytes] = Memory(self.header_table)

    def known(self, headers: tuple[Any, ...]) -> bytes | None:
        """The block for these headers, if it is remembered."""
        # After a resize the next block has to begin with a size update (RFC 7541, 4.2), whatever it holds.
        return None if self.header_table.resized else self._memory.recall(headers)

    def encode(self, headers: Any, huffman: bool = True) -> bytes:  # hpack's signature
        key = tuple(headers)
        block = self.known(key)
        if block is None:
            block = super().encode(key, huffman)
            if len(block) <= LONGEST:
                self._memory.note(key, block)
        return block


class RememberingDecoder(Decoder):  # type: ignore[misc] # hpack has no types
    """A decoder that looks known blocks up."""

    def __init__(self) -> None:
        super().__init__()
        self.header_table = _Table()
        self._memory: Memory[tuple[bytes, bool], list[Any]] = Memory(self.header_table)

    def decode(self, data: bytes, raw: bool = False) -> list[Any]:  # hpack's signature
        block = bytes(data)
        headers = self._memory.recall((block, raw))
        if headers is None:
            headers = super().decode(block, raw)
            if len(block) <= LONGEST:
                self._memory.note((block, raw), headers)
        return list(headers)
