"""What generated messages are made of, in place of betterproto's class and ``dataclasses.dataclass``.

The latter compiles an ``__init__`` for each class, and works out its signature for a docstring: three quarters of what
it costs to load the messages, and most programs make few of them. And betterproto works out the types of all fields of
a class again for each field.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass as standard
from functools import cache
from typing import Any, TypeVar, dataclass_transform, get_type_hints

import betterproto

from api.protobuf.make import fill


class Message(betterproto.Message):
    """What all messages share."""

    def __init__(self, *args: Any, **values: Any) -> None:
        """Fields in their order, or by their names.

        Raises:
            TypeError: there is no such field, or it is given twice.
        """
        cls: Any = type(self)
        names = cls.__dataclass_fields__
        if len(args) > len(names):
            raise TypeError(f"{cls.__name__} has {len(names)} fields, and not {len(args)}")
        given = dict(zip(names, args, strict=False))
        wrong = values.keys() - (names.keys() - given.keys())
        if wrong:
            raise TypeError(f"{cls.__name__} has no such field, or it is given twice: {', '.join(sorted(wrong))}")
        fill(self, {**given, **values})

    @classmethod
    def _type_hints(cls) -> dict[str, type]:
        return _hints_of(cls)


@cache
def _hints_of(cls: type[Message]) -> dict[str, type]:
    return get_type_hints(cls, sys.modules[cls.__module__].__dict__, {})


M = TypeVar("M", bound=Message)


@dataclass_transform(eq_default=False)
def dataclass(*, eq: bool, repr: bool) -> Callable[[type[M]], type[M]]:
    """As ``dataclasses.dataclass``, with the ``__init__`` of :class:`Message`."""

    def decorate(cls: type[M]) -> type[M]:
        cls.__doc__ = cls.__doc__ or cls.__name__
        return standard(init=False, eq=eq, repr=repr)(cls)

    return decorate
