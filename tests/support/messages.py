"""Any message of the contract, for property tests: every field set or not, each with any value of its type."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import betterproto
from hypothesis import strategies as st

from api import messages
from api.protobuf.types import metadata_of

CLASSES: Final = tuple(
    value
    for name in messages.__all__
    if isinstance(value := getattr(messages, name), type) and issubclass(value, betterproto.Message)
)
_TEXT: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
_SCALARS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "bool": st.booleans(),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint32": st.integers(0, 2**32 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "double": st.floats(allow_nan=False),
    "string": _TEXT,
    "bytes": st.binary(max_size=150),
}


def any_message(cls: Any, *, spans: st.SearchStrategy[timedelta] | None = None) -> st.SearchStrategy[Any]:
    """Messages of a class, made by betterproto's own constructor.

    Args:
        spans: what is in fields of the type Duration; by default anything from 0.
    """
    if spans is None:
        spans = st.timedeltas(timedelta(0), timedelta(days=10_000))
    metadata = metadata_of(cls)
    groups = metadata.oneof_group_by_field
    fields = {
        name: _field(metadata, name, meta, spans)
        for name, meta in metadata.meta_by_field_name.items()
        if name not in groups
    }
    parts: list[st.SearchStrategy[dict[str, Any]]] = [st.fixed_dictionaries({}, optional=fields)]
    for group in set(groups.values()):
        choices: list[st.SearchStrategy[dict[str, Any]]] = [st.just({})]
        choices += [
            st.fixed_dictionaries({name: _field(metadata, name, metadata.meta_by_field_name[name], spans)})
            for name in groups
            if groups[name] == group
        ]
        parts.append(st.one_of(choices))
    return st.tuples(*parts).map(lambda found: cls(**{name: value for part in found for name, value in part.items()}))


def _field(
    metadata: betterproto.ProtoClassMetadata,
    name: str,
    meta: betterproto.FieldMetadata,
    spans: st.SearchStrategy[timedelta],
) -> st.SearchStrategy[Any]:
    if meta.proto_type == betterproto.TYPE_MAP:
        assert meta.map_types == ("string", "string")
        return st.dictionaries(_TEXT, _TEXT.filter(bool), max_size=4)
    single = _single(meta.proto_type, metadata.cls_by_field[name], spans)
    return st.lists(single, max_size=3) if metadata.default_gen[name] is list else single


def _single(kind: str, cls: Any, spans: st.SearchStrategy[timedelta]) -> st.SearchStrategy[Any]:
    if kind == "enum":
        return st.sampled_from(list(cls)) | st.integers(0, 2**31 - 1).map(cls.try_value)
    if kind != "message":
        return _SCALARS[kind]
    if cls is datetime:
        return st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(lambda naive: naive.replace(tzinfo=UTC))  # noqa: DTZ001 # the strategy wants naive bounds
    if cls is timedelta:
        return spans
    return any_message(cls, spans=spans)
