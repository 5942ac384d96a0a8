"""What a broker hears of one kind of the pool's keys."""

from __future__ import annotations

import pytest
from structlog.typing import EventDict

from jobd.pools.etcd.answers import Deleted
from jobd.pools.etcd.mirror import Part
from jobd.pools.etcd.pool_errors import PoolDataError
from jobd.pools.etcd.transaction import KeyValue
from jobd.pools.etcd.watch import Listed


class Heard:
    """A part, what was read for it, and what is known by what it told."""

    def __init__(self) -> None:
        self.read: list[bytes] = []
        self.known: dict[bytes, str] = {}
        self.part = Part(b"", lambda: None, self._read, self._hear)

    def _read(self, at: KeyValue) -> str:
        self.read.append(at.key)
        if at.value == b"damaged":
            raise PoolDataError(at.key, "it is damaged")
        return at.value.decode()

    def _hear(self, key: bytes, found: str | None) -> None:
        self.known.pop(key, None)
        if found is not None:
            self.known[key] = found

    def list(self, *keys: bytes, first: bool = True, last: bool = True) -> None:
        self.part._list(Listed(tuple(at(key) for key in keys), 9, first, last))


def at(key: bytes, value: bytes = b"value") -> KeyValue:
    return KeyValue(key, value, 1, 2)


def test_a_record_is_read_once() -> None:
    """However it comes; what was read is told."""
    heard = Heard()
    heard.list(b"a", b"b")
    heard.part._change(at(b"c", b"new"))
    assert heard.read == [b"a", b"b", b"c"]
    assert heard.known == {b"a": "value", b"b": "value", b"c": "new"}
    assert list(heard.part.keys) == [b"a", b"b", b"c"]


@pytest.mark.parametrize("broken_off", [False, True])
def test_what_a_new_list_has_not_is_gone(*, broken_off: bool) -> None:
    """Though only another list had it, that was broken off."""
    heard = Heard()
    heard.list(b"a", b"b")
    if broken_off:
        heard.list(b"b", b"c", last=False)
    heard.list(b"b", last=False)
    heard.list(b"d", first=False)
    assert set(heard.known) == set(heard.part.keys) == {b"b", b"d"}


def test_what_is_deleted_or_damaged_is_gone(errors_expected: list[EventDict]) -> None:
    """It is not known by what it was before."""
    heard = Heard()
    heard.list(b"a", b"b", b"c")
    heard.part._change(Deleted(b"a", 10))
    heard.part._change(at(b"b", b"damaged"))
    assert set(heard.known) == set(heard.part.keys) == {b"c"}
