"""For whom a call is made, when a broker of the pool hands on what somebody asked it for: two fields of metadata.

Only who holds the role broker is believed (``jobd.middleware.delegation``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from api.errors import IdentityError
from api.identity import check_name
from api.roles import Role

NAME: Final = "jobd-acting-for"
"""The principal's name. What is not a letter, a digit or one of _.-~ is written as %XX, byte by byte of its UTF-8."""
ROLES: Final = "jobd-acting-as"
"""The principal's roles, with commas between them."""


@dataclass(frozen=True, slots=True)
class Acting:
    """Somebody who made a call elsewhere.

    Attributes:
        name: the principal's.
        roles: what it may be, one at least; never a broker.
    """

    name: str
    roles: frozenset[Role]


def metadata_of(acting: Acting) -> tuple[tuple[str, str], ...]:
    """The metadata that say it."""
    return (NAME, quote(acting.name, safe="")), (ROLES, ",".join(sorted(acting.roles)))


def acting_of(metadata: Iterable[tuple[str, str | bytes]]) -> Acting | None:
    """For whom a call is made; None when that is who makes it.

    Raises:
        IdentityError: it is said in part, twice, or of nobody.
    """
    names, roles = [[value for key, value in metadata if key == wanted] for wanted in (NAME, ROLES)]
    if not names and not roles:
        return None
    if len(names) != 1 or len(roles) != 1:
        raise IdentityError(f"{NAME} and {ROLES} are said once each, or not at all")
    return Acting(check_name(_name(names[0])), _roles(roles[0]))


def _name(value: str | bytes) -> str:
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        raise IdentityError(f"{NAME} is not UTF-8") from None


def _roles(value: str | bytes) -> frozenset[Role]:
    said = value.split(",") if isinstance(value, str) else []
    if not said or not set(said) <= {Role.READER, Role.WRITER}:
        raise IdentityError(f"{ROLES} names none of the roles that somebody can be acted for in, or others")
    return frozenset(Role(role) for role in said)
