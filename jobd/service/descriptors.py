"""What the .proto files say, for those who ask the server itself: the files, and what is in which."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import betterproto

import api
from api.messages import FileDescriptorResponse
from api.protobuf import decode
from api.protobuf.message import Message, dataclass

SERIALIZED: Final = Path(api.__file__).parent / "_generated" / "descriptors.binpb"
"""A google.protobuf.FileDescriptorSet; ``api/proto/generate.py`` writes it."""


# What google/protobuf/descriptor.proto has, as far as it is of interest here: to make classes of all of it takes every
# start as long as a tenth of our own modules.


@dataclass(eq=False, repr=False)
class Named(Message):
    """A FieldDescriptorProto, OneofDescriptorProto, MethodDescriptorProto or EnumValueDescriptorProto."""

    name: str = betterproto.string_field(1)


@dataclass(eq=False, repr=False)
class Group(Message):
    """An EnumDescriptorProto, with its values, or a ServiceDescriptorProto, with its methods."""

    name: str = betterproto.string_field(1)
    members: list[Named] = betterproto.message_field(2)


@dataclass(eq=False, repr=False)
class Described(Message):
    """A DescriptorProto."""

    name: str = betterproto.string_field(1)
    field: list[Named] = betterproto.message_field(2)
    nested_type: list[Described] = betterproto.message_field(3)
    enum_type: list[Group] = betterproto.message_field(4)
    oneof_decl: list[Named] = betterproto.message_field(8)


@dataclass(eq=False, repr=False)
class File(Message):
    """A FileDescriptorProto."""

    name: str = betterproto.string_field(1)
    package: str = betterproto.string_field(2)
    dependency: list[str] = betterproto.string_field(3)
    message_type: list[Described] = betterproto.message_field(4)
    enum_type: list[Group] = betterproto.message_field(5)
    service: list[Group] = betterproto.message_field(6)


class Descriptors:
    """The files of a FileDescriptorSet.

    Attributes:
        files: each serialized, by its name.
        symbols: the file of each thing that has a name, by its full name.
        messages: the full names of those.
    """

    def __init__(self, serialized: bytes) -> None:
        # The same on the wire as a FileDescriptorSet, and leaves each file as it came.
        files = decode(FileDescriptorResponse, serialized).file_descriptor_proto
        self.files: dict[str, bytes] = {}
        self.symbols: dict[str, str] = {}
        self.messages: set[str] = set()
        self._imports: dict[str, list[str]] = {}
        for data in files:
            file = decode(File, data)
            self.files[file.name] = data
            self._imports[file.name] = list(file.dependency)
            for symbol, is_message in _symbols_of(file):
                self.symbols[symbol] = file.name
                if is_message:
                    self.messages.add(symbol)

    def closure(self, name: str) -> list[bytes]:
        """The file of this name, then all that it imports, each once."""
        found = [name]
        for file in found:  # grows meanwhile
            found += [other for other in self._imports[file] if other not in found]
        return [self.files[file] for file in found]


def _symbols_of(file: File) -> Iterator[tuple[str, bool]]:
    """Full names, and whether they are messages."""
    within = f"{file.package}."
    for message in file.message_type:
        yield from _of_message(message, within)
    for enum in file.enum_type:
        yield from _of_enum(enum, within)
    for service in file.service:
        yield within + service.name, False
        yield from ((f"{within}{service.name}.{method.name}", False) for method in service.members)


def _of_message(message: Described, within: str) -> Iterator[tuple[str, bool]]:
    yield within + message.name, True
    within += f"{message.name}."
    yield from ((within + field.name, False) for field in message.field)
    yield from ((within + oneof.name, False) for oneof in message.oneof_decl)
    for nested in message.nested_type:
        yield from _of_message(nested, within)
    for enum in message.enum_type:
        yield from _of_enum(enum, within)


def _of_enum(enum: Group, within: str) -> Iterator[tuple[str, bool]]:
    """Values are beside their enum, not in it (as in C++)."""
    yield within + enum.name, False
    yield from ((within + value.name, False) for value in enum.members)
