"""Messages without betterproto's ``__init__``, which looks at each field several times."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final, ParamSpec, TypeVar

import betterproto

from api.protobuf.types import FIXED, VARINTS, metadata_of

M = TypeVar("M", bound=betterproto.Message)
P = ParamSpec("P")

_UNCHANGING: Final = frozenset({"string", "bytes", *VARINTS, *FIXED})


def new(cls: Callable[P, M], *args: P.args, **kwargs: P.kwargs) -> M:
    """``cls(**kwargs)``, without what betterproto does for each field. Keyword arguments only."""
    assert not args
    assert isinstance(cls, type)
    message: M = blank(cls, kwargs)
    return message


def blank(cls: type[M], values: dict[str, Any]) -> M:
    """An instance with these values in its fields, and the others unset."""
    message = cls.__new__(cls)
    fill(message, values)["_serialized_on_wire"] = True
    return message


def fill(message: betterproto.Message, values: dict[str, Any]) -> dict[str, Any]:
    """Set these fields of an instance, and no other; what it consists of."""
    template, containers, groups = _template(type(message))
    state: dict[str, Any] = object.__getattribute__(message, "__dict__")  # past betterproto's, which looks at defaults
    state.update(template)
    for name, container in containers:
        state[name] = container()
    state.update(values)
    state["_serialized_on_wire"] = bool(values)
    state["_unknown_fields"] = b""
    current: dict[str, str | None] = {}
    state["_group_current"] = current
    if groups:
        current.update(dict.fromkeys(groups.values()))
        current.update((groups[name], name) for name in values if name in groups)
    return state


@cache
def _template(cls: Any) -> tuple[dict[str, Any], list[tuple[str, Any]], dict[str, str]]:
    """What a message without any value has in its fields, and where a list or a dict of its own; and the oneof group of
    each field that is in one.

    betterproto fills a field's zero in when somebody asks for it, which is slow; here it is there from the start, but
    for messages.
    """
    fields, metadata = cls.__dataclass_fields__, metadata_of(cls)
    groups = metadata.oneof_group_by_field
    template = {name: fields[name].default for name in fields}
    containers: list[tuple[str, Any]] = []
    for name, meta in metadata.meta_by_field_name.items():
        if metadata.default_gen[name] in (list, dict):
            containers.append((name, metadata.default_gen[name]))
        elif meta.proto_type in _UNCHANGING and not meta.optional and name not in groups:
            zero = metadata.default_gen[name]()
            if isinstance(zero, int | float | str | bytes):
                template[name] = zero
    return template, containers, groups
