"""The messages of Google that ours are made with, as betterproto has them. It has sixty more, and making classes of all
is an eighth of a cold start: :mod:`api.lean` puts these in their place.

Loaded while betterproto itself is: nothing of it may be needed here but what its own would need.
"""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass
from typing import TYPE_CHECKING, Final

import betterproto

if TYPE_CHECKING:
    from collections.abc import Callable


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
class EnumValue(betterproto.Message):
    """betterproto imports it, and means another one: a value of a described enumeration. Nobody makes any."""

    name: str = betterproto.string_field(1)
    number: int = betterproto.int32_field(2)


_WRAPPED: Final[dict[str, tuple[type, Callable[[int], object]]]] = {
    "BoolValue": (bool, betterproto.bool_field),
    "BytesValue": (bytes, betterproto.bytes_field),
    "DoubleValue": (float, betterproto.double_field),
    "FloatValue": (float, betterproto.float_field),
    "Int32Value": (int, betterproto.int32_field),
    "Int64Value": (int, betterproto.int64_field),
    "StringValue": (str, betterproto.string_field),
    "UInt32Value": (int, betterproto.uint32_field),
    "UInt64Value": (int, betterproto.uint64_field),
}
"""Values that may be missing."""


def _wrapper(name: str, type_: type, field: Callable[[int], object]) -> type:
    fields = [("value", type_, field(1))]
    # The module is where betterproto looks for the types; without a docstring, one is worked out from the signature.
    own = {"__module__": __name__, "__doc__": f"A {type_.__name__} that may be missing."}
    return make_dataclass(name, fields, bases=(betterproto.Message,), namespace=own, eq=False, repr=False)


globals().update({name: _wrapper(name, *how) for name, how in _WRAPPED.items()})
