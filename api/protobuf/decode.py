"""Bytes to messages."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any, Final, NamedTuple, TypeVar

import betterproto
from betterproto.lib.google.protobuf import Duration, Timestamp

from api.protobuf.make import blank
from api.protobuf.types import EPOCH, FIXED, FIXED32, FIXED64, LENGTH, MASK, VARINT, metadata_of, wire_type

M = TypeVar("M", bound=betterproto.Message)
Buffer = bytes | bytearray | memoryview

_FIRST_KEY, _LAST_KEY, _KEY_BYTES = 1 << 3, 2**32 - 1, 5
"""A number and a wire type: an unsigned number of 32 bits (protobuf.dev, "Encoding", and google.protobuf's reader)."""

_ONE_BYTE: Final = 1 << 7
"""The first number that takes two bytes."""
_LARGE: Final = 4096
"""Bytes of a message from which on views of its parts are quicker than copies."""


class MalformedMessageError(ValueError):
    """The bytes are not a message of this class."""


class _Reader(NamedTuple):
    """How a field is read.

    Attributes:
        name: of the field.
        wire_type: what each value of it comes with.
        convert: makes the value of what came.
        repeated: it is a list.
        is_map: what ``convert`` gives is a key and a value.
        packed: a list that may also come as one piece.
        rivals: the other fields of its oneof.
    """

    name: str
    wire_type: int
    convert: Callable[[Any], Any]
    repeated: bool
    is_map: bool
    packed: bool
    rivals: tuple[str, ...]


def decode(cls: type[M], data: Buffer) -> M:
    """``cls().parse(data)``.

    Raises:
        MalformedMessageError: they are not a message of this class.
    """
    try:
        return _parse(cls, memoryview(data) if len(data) > _LARGE else data)
    except (IndexError, KeyError, ValueError, OverflowError, struct.error) as exc:
        # Cut; a group, which proto3 does not have; not UTF-8; a time beyond the calendar.
        raise MalformedMessageError(f"the bytes are not a {cls.__name__}") from exc


def _parse(cls: type[M], data: Buffer) -> M:
    return blank(cls, _values(_readers(cls), data))


def _values(readers: dict[int, _Reader], data: Buffer) -> dict[str, Any]:
    """The fields that are there. Of a field that comes twice and is no list, the last one counts."""
    values: dict[str, Any] = {}
    for number, came_as, value in _cut(data):
        reader = readers.get(number)
        if reader is None:
            continue
        if came_as != reader.wire_type:
            if reader.packed and came_as == LENGTH:
                values.setdefault(reader.name, []).extend(map(reader.convert, _cut_packed(reader.wire_type, value)))
            continue
        value = reader.convert(value)
        if reader.repeated:
            values.setdefault(reader.name, []).append(value)
        elif reader.is_map:
            values.setdefault(reader.name, {}).update((value,))
        else:
            for rival in reader.rivals:
                values.pop(rival, None)
            values[reader.name] = value
    return values


def _cut(data: Buffer) -> Iterator[tuple[int, int, Any]]:
    """Number, wire type and raw value of each field in turn."""
    at, end = 0, len(data)
    value: Any
    while at < end:
        key = data[at]
        if _FIRST_KEY <= key < _ONE_BYTE:  # as most are: numbers of one byte are read right here
            at += 1
        else:
            begun = at
            key, at = read_varint(data, at)
            if not _FIRST_KEY <= key <= _LAST_KEY or at - begun > _KEY_BYTES:
                raise ValueError("no field has that number")
        came_as = key & 7
        if came_as == VARINT:
            value = data[at]
            if value < _ONE_BYTE:
                at += 1
            else:
                value, at = read_varint(data, at)
        else:
            if came_as == LENGTH:
                size = data[at]
                if size < _ONE_BYTE:
                    at += 1
                else:
                    size, at = read_varint(data, at)
            else:
                size = _SIZES[came_as]
            value = data[at : at + size]
            at += size
            if at > end:
                raise IndexError("the message is cut")
        yield key >> 3, came_as, value


def _cut_packed(came_as: int, data: Buffer) -> Iterator[Any]:
    at, end = 0, len(data)
    while at < end:
        if came_as == VARINT:
            value, at = read_varint(data, at)
            yield value
        else:
            size = _SIZES[came_as]
            yield data[at : at + size]  # struct refuses one that is cut
            at += size


def read_varint(data: Buffer, at: int) -> tuple[int, int]:
    """The number at a place, and the place after it.

    Raises:
        IndexError: the bytes end before it does.
        ValueError: it has more than 64 bits.
    """
    byte = data[at]
    if byte < 128:
        return byte, at + 1
    value = shift = 0
    while byte > 127:
        value |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if shift > 63:
            raise ValueError("a number has more than 64 bits")
        byte = data[at]
    return (value | byte << shift) & MASK, at + 1


@cache
def _readers(cls: type[betterproto.Message]) -> dict[int, _Reader]:
    return {meta.number: _reader(cls, name, meta) for name, meta in metadata_of(cls).meta_by_field_name.items()}


def _reader(cls: type[betterproto.Message], name: str, meta: betterproto.FieldMetadata) -> _Reader:
    found = metadata_of(cls)
    is_map = meta.proto_type == betterproto.TYPE_MAP
    repeated = found.default_gen[name] is list
    rivals = found.oneof_field_by_group[meta.group] if meta.group else ()
    field_class = found.cls_by_field[name]
    convert = partial(_entry, field_class) if is_map else _parser(meta.proto_type, field_class)
    return _Reader(
        name,
        LENGTH if is_map else wire_type(meta.proto_type),
        convert,
        repeated,
        is_map,
        repeated and meta.proto_type in betterproto.PACKED_TYPES,
        tuple(field.name for field in rivals if field.name != name),
    )


def _entry(cls: type[betterproto.Message], data: Buffer) -> tuple[Any, Any]:
    """Key and value of one entry of a map; what is left out is a zero."""
    entry: Any = _parse(cls, data)
    return entry.key, entry.value


def _parser(kind: str, cls: type[Any]) -> Callable[[Any], Any]:
    """The function that makes a field's value of what came."""
    if kind == "enum":
        return lambda value: cls.try_value(_signed(32, value))
    if kind == "message":
        return {datetime: _to_datetime, timedelta: _to_timedelta}.get(cls) or partial(_parse, cls)
    if kind in FIXED:
        return partial(_unpack, FIXED[kind])
    return _PARSERS[kind]


def _unpack(form: struct.Struct, data: Buffer) -> int | float:
    value: int | float = form.unpack(data)[0]
    return value


def _to_datetime(data: Buffer) -> datetime:
    time = _values(_readers(Timestamp), data)
    return EPOCH + timedelta(seconds=time.get("seconds", 0), microseconds=time.get("nanos", 0) // 1000)


def _to_timedelta(data: Buffer) -> timedelta:
    span = _values(_readers(Duration), data)
    return timedelta(seconds=span.get("seconds", 0), microseconds=span.get("nanos", 0) / 1000)


def _signed(bits: int, value: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _unsigned(bits: int, value: int) -> int:
    return value & ((1 << bits) - 1)


def _unzigzag(bits: int, value: int) -> int:
    value = _unsigned(bits, value)
    return value >> 1 ^ -(value & 1)


_SIZES: Final = {FIXED64: 8, FIXED32: 4}
_PARSERS: Final[dict[str, Callable[[Any], Any]]] = {
    "bool": bool,
    "bytes": bytes,
    "string": partial(str, encoding="utf-8"),
    **{f"int{bits}": partial(_signed, bits) for bits in (32, 64)},
    **{f"uint{bits}": partial(_unsigned, bits) for bits in (32, 64)},
    **{f"sint{bits}": partial(_unzigzag, bits) for bits in (32, 64)},
}
