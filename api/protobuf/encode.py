"""Messages to bytes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any, Final

import betterproto

from api.protobuf.types import EPOCH, FIXED, LENGTH, MASK, RANGES, VARINTS, metadata_of, wire_type

Put = Callable[[list[bytes], Any], None]
"""Appends a field with this value, if it is one that is written."""

_SMALL: Final = tuple(bytes((value,)) for value in range(128))
_MICROSECOND: Final = timedelta(microseconds=1)


class UnfitValueError(ValueError):
    """A number is beyond what its field holds; betterproto would send the lower bits of it.

    Attributes:
        field: the field's name, with those of the messages around it before it (``spec.limits.processes``).
    """

    def __init__(self, value: int, lowest: int, highest: int) -> None:
        super().__init__(f"is {value}, and not between {lowest} and {highest}")
        self.field = ""

    def within(self, field: str) -> None:
        """It was met in this field."""
        self.field = f"{field}.{self.field}" if self.field else field


def encode(message: betterproto.Message) -> bytes:
    """``bytes(message)``.

    Raises:
        UnfitValueError: a number is beyond what its field holds.
    """
    return b"".join(_parts(message))


def _parts(message: betterproto.Message) -> list[bytes]:
    values: dict[str, Any] = object.__getattribute__(message, "__dict__")  # past betterproto's own
    current = values["_group_current"]
    out: list[bytes] = []
    for name, group, put in _writers(type(message)):
        value = values[name]
        if value is None or value is betterproto.PLACEHOLDER or (group and current[group] != name):
            continue
        try:
            put(out, value)
        except UnfitValueError as exc:
            exc.within(name)
            raise
    return out


@cache
def _writers(cls: type[betterproto.Message]) -> tuple[tuple[str, str | None, Put], ...]:
    return tuple(
        (name, meta.group, _writer(cls, name, meta)) for name, meta in metadata_of(cls).meta_by_field_name.items()
    )


def _writer(cls: type[betterproto.Message], name: str, meta: betterproto.FieldMetadata) -> Put:
    kind, number = meta.proto_type, meta.number
    assert not meta.wraps, "the contract has no wrapper types"
    if kind == betterproto.TYPE_MAP:
        assert meta.map_types
        key, value = (_single(place, type_) for place, type_ in enumerate(meta.map_types, 1))
        return partial(_put_map, _tag(number, LENGTH), key, value)
    if metadata_of(cls).default_gen[name] is list:
        if kind in betterproto.PACKED_TYPES:
            return partial(_put_packed, _tag(number, LENGTH), _converter(kind), RANGES.get(kind))
        return partial(_put_each, _single(number, kind, always=True))
    # A field with presence is written whenever it is set; others only when they differ from their zero.
    return _single(number, kind, always=bool(meta.optional or meta.group))


def _single(number: int, kind: str, *, always: bool = False) -> Put:
    """The function that writes one value of a field."""
    convert = _converter(kind)
    tag = _tag(number, wire_type(kind))
    if kind in VARINTS:
        lowest, highest = RANGES[kind]

        def put_varint(out: list[bytes], value: Any) -> None:
            if value or always:
                if not lowest <= value <= highest:
                    raise UnfitValueError(value, lowest, highest)
                out.append(tag + convert(value))

        return put_varint
    if kind in FIXED:

        def put_number(out: list[bytes], value: Any) -> None:
            if value or always:
                out.append(tag + convert(value))

        return put_number

    def put(out: list[bytes], value: Any) -> None:
        data = convert(value)
        # A message that was made on purpose is written, also when it is empty; betterproto marks such ones.
        if data or always or getattr(value, "_serialized_on_wire", False):
            out.append(tag + varint(len(data)))
            out.append(data)

    return put


def _put_each(put: Put, out: list[bytes], values: list[Any]) -> None:
    for value in values:
        put(out, value)


def _put_packed(
    tag: bytes, convert: Callable[[Any], bytes], range_: tuple[int, int] | None, out: list[bytes], values: list[Any]
) -> None:
    if values:
        if range_:
            lowest, highest = range_
            for value in values:
                if not lowest <= value <= highest:
                    raise UnfitValueError(value, lowest, highest)
        data = b"".join(map(convert, values))
        out += (tag, varint(len(data)), data)


def _put_map(tag: bytes, put_key: Put, put_value: Put, out: list[bytes], values: dict[Any, Any]) -> None:
    for key, value in values.items():
        entry: list[bytes] = []
        put_key(entry, key)
        put_value(entry, value)
        data = b"".join(entry)
        out += (tag, varint(len(data)), data)


def _converter(kind: str) -> Callable[[Any], bytes]:
    """The function that makes a value's bytes, without tag and length."""
    if kind in FIXED:
        return FIXED[kind].pack
    if kind in ("sint32", "sint64"):
        return _zigzag
    if kind in VARINTS:
        return varint
    return _CONVERTERS[kind]


def _message(value: Any) -> bytes:
    if isinstance(value, datetime):
        return _instant((value - EPOCH) // _MICROSECOND)
    if isinstance(value, timedelta):
        return _span(value // _MICROSECOND)
    return b"".join(_parts(value))


def _instant(microseconds: int) -> bytes:
    """google.protobuf.Timestamp: nanos count forward, also before 1970."""
    seconds, rest = divmod(microseconds, 1_000_000)
    return _seconds_and_nanos(seconds, rest * 1000)


def _span(microseconds: int) -> bytes:
    """google.protobuf.Duration: seconds and nanos have the same sign."""
    seconds, rest = divmod(abs(microseconds), 1_000_000)
    sign = -1 if microseconds < 0 else 1
    return _seconds_and_nanos(sign * seconds, sign * rest * 1000)


def _seconds_and_nanos(seconds: int, nanos: int) -> bytes:
    return (b"\x08" + varint(seconds) if seconds else b"") + (b"\x10" + varint(nanos) if nanos else b"")


def varint(value: int) -> bytes:
    """Base 128, least significant group first; below zero as two's complement of 64 bits."""
    if 0 <= value < 128:
        return _SMALL[value]
    if 0 < value < 1 << 14:
        return bytes((value & 0x7F | 0x80, value >> 7))
    value &= MASK
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _zigzag(value: int) -> bytes:
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)


def _tag(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


_CONVERTERS: Final[dict[str, Callable[[Any], bytes]]] = {"string": str.encode, "bytes": bytes, "message": _message}
