"""The messages of Google that ours are made with, as betterproto has them. It has sixty more, and making classes of all
is an eighth of a cold start: :mod:`api.lean` puts these in their place.

Loaded while betterproto itself is: nothing of it may be needed here but what its own would need.
"""

from __future__ import annotations

from dataclasses import dataclass

import betterproto


@dataclass(eq=False, repr=False)
class Any(betterproto.Message):
    """A message of any type, and which."""

    type_url: str = betterproto.string_field(1)
    value: bytes = betterproto.bytes_field(2)


@dataclass(eq=False, repr=False)
class Duration(betterproto.Message):
    """A time."""

    seconds: int = betterproto.int64_field(1)
    nanos: int = betterproto.int32_field(2)


@dataclass(eq=False, repr=False)
class Timestamp(betterproto.Message):
    """A moment, since the epoch."""

    seconds: int = betterproto.int64_field(1)
    nanos: int = betterproto.int32_field(2)


@dataclass(eq=False, repr=False)
class BoolValue(betterproto.Message):
    """A value that may be missing, as are those that follow."""

    value: bool = betterproto.bool_field(1)


@dataclass(eq=False, repr=False)
class BytesValue(betterproto.Message):
    """As above."""

    value: bytes = betterproto.bytes_field(1)


@dataclass(eq=False, repr=False)
class DoubleValue(betterproto.Message):
    """As above."""

    value: float = betterproto.double_field(1)


@dataclass(eq=False, repr=False)
class FloatValue(betterproto.Message):
    """As above."""

    value: float = betterproto.float_field(1)


@dataclass(eq=False, repr=False)
class Int32Value(betterproto.Message):
    """As above."""

    value: int = betterproto.int32_field(1)


@dataclass(eq=False, repr=False)
class Int64Value(betterproto.Message):
    """As above."""

    value: int = betterproto.int64_field(1)


@dataclass(eq=False, repr=False)
class StringValue(betterproto.Message):
    """As above."""

    value: str = betterproto.string_field(1)


@dataclass(eq=False, repr=False)
class UInt32Value(betterproto.Message):
    """As above."""

    value: int = betterproto.uint32_field(1)


@dataclass(eq=False, repr=False)
class UInt64Value(betterproto.Message):
    """As above."""

    value: int = betterproto.uint64_field(1)


@dataclass(eq=False, repr=False)
class EnumValue(betterproto.Message):
    """betterproto imports it, and means another one: a value of a described enumeration. Nobody makes any."""

    name: str = betterproto.string_field(1)
    number: int = betterproto.int32_field(2)
