"""The error for a field of a request that cannot be accepted."""

from __future__ import annotations

from api.errors import FieldViolation, InvalidArgumentError


def refuse(field: str, description: str) -> InvalidArgumentError:
    """The error for one field of a request."""
    return InvalidArgumentError(
        f"{field} {description}", reason="INVALID_REQUEST", violations=(FieldViolation(field, description),)
    )
