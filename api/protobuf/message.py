"""What makes a dataclass of a generated message, in place of ``dataclasses.dataclass``.

That one compiles an ``__init__`` for each class, and works out its signature for a docstring: three quarters of what it
costs to load the messages, and most programs make few of them. And betterproto works out the types of all fields of a
class again for each field.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass as standard
from functools import cache
from typing import Any, TypeVar, dataclass_transform, get_type_hints

import betterproto

from api.protobuf.make import fill

M = TypeVar("M", bound=betterproto.Message)


@dataclass_transform(eq_default=False)
def dataclass(*, eq: bool, repr: bool) -> Callable[[type[M]], type[M]]:  # the standard one's name
    """As ``dataclasses.dataclass``, with the ``__init__`` that all messages share."""

    def decorate(cls: type[M]) -> type[M]:
        cls.__doc__ = cls.__doc__ or cls.__name__
        made = standard(init=False, eq=eq, repr=repr)(cls)
        setattr(made, "__init__", _init)  # noqa: B010 # mypy holds that a class's own may not be replaced
        setattr(made, "_type_hints", classmethod(_type_hints))  # noqa: B010 # the same
        return made

    return decorate


def _type_hints(cls: Any) -> dict[str, type]:
    return _hints_of(cls)


@cache
def _hints_of(cls: Any) -> dict[str, type]:
    return get_type_hints(cls, sys.modules[cls.__module__].__dict__, {})


def _init(self: betterproto.Message, *args: Any, **values: Any) -> None:
    """Fields in their order, or by their names.

    Raises:
        TypeError: there is no such field, or it is given twice.
    """
    cls = type(self)
    names: dict[str, Any] = getattr(cls, "__dataclass_fields__")  # noqa: B009 # mypy does not know that it is one
    if len(args) > len(names):
        raise TypeError(f"{cls.__name__} has {len(names)} fields, and not {len(args)}")
    given = dict(zip(names, args, strict=False))
    if not values.keys() <= names.keys() - given.keys():
        wrong = ", ".join(sorted(values.keys() - (names.keys() - given.keys())))
        raise TypeError(f"{cls.__name__} has no such field, or it is given twice: {wrong}")
    fill(self, {**given, **values})
