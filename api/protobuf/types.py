"""What both directions need to know of protobuf's encoding."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from typing import Any, Final

import betterproto

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
FIXED: Final = {
    name: struct.Struct(form)
    for name, form in {
        "float": "<f", "fixed32": "<I", "sfixed32": "<i", "double": "<d", "fixed64": "<Q", "sfixed64": "<q"
    }.items()
}  # fmt: skip
_SIGNED_32, _SIGNED_64 = (-(1 << 31), (1 << 31) - 1), (-(1 << 63), (1 << 63) - 1)
RANGES: Final = {
    "bool": (0, 1), "enum": _SIGNED_32, "int32": _SIGNED_32, "int64": _SIGNED_64, "uint32": (0, (1 << 32) - 1),
    "uint64": (0, (1 << 64) - 1), "sint32": _SIGNED_32, "sint64": _SIGNED_64,
}  # fmt: skip
"""The least and the greatest value of each type."""
VARINTS: Final = frozenset(RANGES)
MASK: Final = (1 << 64) - 1
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def metadata_of(cls: Any) -> betterproto.ProtoClassMetadata:
    """What betterproto knows of a class of messages; ``meta_by_field_name`` is in the order of its definition."""
    metadata: betterproto.ProtoClassMetadata = cls._betterproto
    return metadata


def wire_type(kind: str) -> int:
    """What a value of this type comes as."""
    if kind in VARINTS:
        return VARINT
    if kind in FIXED:
        return FIXED32 if FIXED[kind].size == 4 else FIXED64
    return LENGTH
