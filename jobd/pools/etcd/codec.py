"""Records as bytes, and back: JSON objects, small, read strictly.

A record that is larger than its class allows, or that has a field of another type or size than is written here, is
refused whole. Fields that are not known are kept, and written again with the record: they are of a newer jobd of the
same schema, which may add what an older one need not understand (what it must understand makes a new schema).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, NoReturn, TypeVar

from jobd.pools.etcd.pool_errors import PoolDataError

MAX_INTEGER: Final = 2**63

Check = Callable[[Any], bool]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a key holds.

    Attributes:
        MOST: bytes that it may have; etcd takes 1.5 MiB in one request.
        extra: fields of a newer jobd.
    """

    MOST: ClassVar[int] = 4096

    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)


R = TypeVar("R", bound=Record)


class RecordTooLargeError(ValueError):
    """A record would be larger than it may be.

    Attributes:
        size, most: in bytes.
    """

    def __init__(self, what: str, size: int, most: int) -> None:
        super().__init__(f"a {what} of {size} bytes is too large for the pool, which takes {most}")
        self.size, self.most = size, most


def encode(record: Record) -> bytes:
    """The bytes of a record: what is not as it is by default, in the order of its fields.

    Raises:
        RecordTooLargeError: it would not be read again.
    """
    written: dict[str, Any] = {}
    for each in _fields(record):
        value = getattr(record, each.name)
        if not _optional(each) or value != (each.default if each.default_factory is dataclasses.MISSING else {}):
            written[each.name] = value
    written.update({name: value for name, value in record.extra.items() if name not in written})
    data = json.dumps(written, separators=(",", ":")).encode()
    if len(data) > record.MOST:
        raise RecordTooLargeError(type(record).__name__.lower(), len(data), record.MOST)
    return data


def decode(kind: type[R], key: bytes, data: bytes) -> R:
    """The record that a key holds.

    Raises:
        PoolDataError: it holds something else.
    """
    if len(data) > kind.MOST:
        raise PoolDataError(key, f"it has {len(data)} bytes, and may have {kind.MOST}")
    try:
        read = json.loads(data, parse_constant=_no_such_number)
    except (ValueError, RecursionError) as exc:
        raise PoolDataError(key, "it is no JSON") from exc
    if not isinstance(read, dict):
        raise PoolDataError(key, "it is no object")
    known = {}
    for each in _fields(kind):
        if each.name not in read:
            if not _optional(each):
                raise PoolDataError(key, f"it has no {each.name}")
            continue
        value = read.pop(each.name)
        if not each.metadata["check"](value):
            raise PoolDataError(key, f"its {each.name} is not of the form that it has to have")
        known[each.name] = tuple(value) if isinstance(value, list) else value
    return kind(**known, extra=read)


def _fields(kind: Record | type[Record]) -> list[dataclasses.Field[Any]]:
    return [each for each in dataclasses.fields(kind) if each.name != "extra"]


def _optional(each: dataclasses.Field[Any]) -> bool:
    return each.default is not dataclasses.MISSING or each.default_factory is not dataclasses.MISSING


def _no_such_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


# ---- what fields can be


def _field(check: Check, **default: Any) -> Any:
    return dataclasses.field(metadata={"check": check}, **default)


def text(most: int, *, required: bool = False) -> Any:
    """At most so many characters."""
    if required:
        return _field(lambda value: bool(value) and _is_text(value, most))
    return _field(lambda value: _is_text(value, most), default="")


def number(*, required: bool = False) -> Any:
    """A whole number that is not negative."""
    return _field(_is_number) if required else _field(_is_number, default=0)


def flag(*, default: bool) -> Any:
    """Yes or no."""
    return _field(lambda value: isinstance(value, bool), default=default)


def choice(*of: str) -> Any:
    """One of these texts."""
    return _field(lambda value: isinstance(value, str) and value in of)


def words(count: int, most: int) -> Any:
    """At most so many texts, of so many characters each."""
    return _field(lambda value: _is_list(value, count) and all(_is_text(each, most) for each in value), default=())


def pairs(count: int, most: int) -> Any:
    """At most so many names with values, of so many characters each."""

    def check(value: Any) -> bool:
        return _is_object(value, count) and all(
            _is_text(name, most) and _is_text(each, most) for name, each in value.items()
        )

    return _field(check, default_factory=dict)


def facts(*, required: bool = False) -> Any:
    """An object that somebody else reads (:mod:`jobd.worker.facts`)."""
    return _field(_is_object) if required else _field(_is_object, default_factory=dict)


def _is_text(value: Any, most: int) -> bool:
    return isinstance(value, str) and len(value) <= most


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_INTEGER


def _is_list(value: Any, most: int) -> bool:
    return isinstance(value, list) and len(value) <= most


def _is_object(value: Any, most: int = MAX_INTEGER) -> bool:
    return isinstance(value, dict) and len(value) <= most
