"""For whom? In a pool a broker hands on what others asked it for, and everything after this is about those others."""

from __future__ import annotations

from dataclasses import replace

from api.acting import NAME, acting_of
from api.errors import FieldViolation, IdentityError, InvalidArgumentError, PermissionDeniedError
from api.identity import Role
from api.rpc.server import Handler, ServerCall


async def act_for(call: ServerCall, proceed: Handler) -> None:
    """Take the one that the caller acts for as the principal, or end the call.

    Stands behind authentication, which found out who calls, and in a pool only. The broker is believed in who it acts
    for, and in which roles: it had their certificate before it. Its own serial number stays, for the audit.
    """
    assert call.principal is not None  # authentication lets nobody else through
    try:
        acting = acting_of(call.metadata)
    except IdentityError as exc:
        raise InvalidArgumentError(
            str(exc), reason="INVALID_REQUEST", violations=(FieldViolation(NAME, "is not whole, or names nobody"),)
        ) from exc
    if acting:
        if Role.BROKER not in call.principal.roles:
            raise PermissionDeniedError(
                f"{call.principal.name} may not act for others: its certificate has no O=jobd:broker",
                reason="ROLE_MISSING",
                metadata={"needed": Role.BROKER},
            )
        call.broker = call.principal
        call.principal = replace(call.principal, name=acting.name, roles=acting.roles)
    await proceed(call)
