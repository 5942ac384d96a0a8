"""Reading a subject, whose attributes may have any type and any content."""

from __future__ import annotations

from cryptography import x509
from cryptography.x509.oid import NameOID

from api.identity import ROLE_PREFIX


def attribute_texts(name: x509.Name, oid: x509.ObjectIdentifier) -> list[str]:
    """The values of every attribute of the kind ``oid``, as text."""
    values = [attribute.value for attribute in name.get_attributes_for_oid(oid)]
    return [value if isinstance(value, str) else value.decode("latin-1") for value in values]


def common_names(name: x509.Name) -> list[str]:
    """Every common name in a subject."""
    return attribute_texts(name, NameOID.COMMON_NAME)


def role_texts(name: x509.Name) -> list[str]:
    """What stands after ``jobd:`` in the organisations of a subject, whether this version knows such a role or not."""
    organisations = attribute_texts(name, NameOID.ORGANIZATION_NAME)
    return [text.removeprefix(ROLE_PREFIX) for text in organisations if text.startswith(ROLE_PREFIX)]


def printable(text: str) -> str:
    r"""``text`` with everything that is not printable as a Python escape, so that it cannot steer a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
