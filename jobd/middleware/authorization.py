"""May they? The role that the table of methods asks for; whatever is not in the table is refused."""

from __future__ import annotations

from typing import Final

from api.errors import PermissionDeniedError, UnauthenticatedError
from api.identity import Principal, Role
from api.methods import AnyMethod
from api.rpc.server import Handler, ServerCall, unknown_method

GRANTS: Final[dict[Role, frozenset[Role]]] = {
    Role.READER: frozenset({Role.READER}),
    Role.WRITER: frozenset({Role.READER, Role.WRITER}),
    Role.BROKER: frozenset(),  # for itself; see delegation
}
"""What holding a role allows: methods that ask for any of these."""


async def authorize(call: ServerCall, proceed: Handler) -> None:
    """Let the call through when the principal's roles allow its method; otherwise end it.

    Permission comes before existence (AIP-211): a principal without any role learns nothing about methods.
    """
    if call.principal is None:
        raise UnauthenticatedError("a client certificate is needed", reason="NO_CERTIFICATE")
    if not call.principal.roles:
        raise PermissionDeniedError(
            f"{call.principal.name} has no role here: the certificate has no O=jobd:reader or O=jobd:writer",
            reason="NO_ROLE",
        )
    if call.method is None:
        raise unknown_method(call.path)
    if not may(call.principal, call.method):
        raise PermissionDeniedError(
            f"{call.principal.name} may not call {call.method.name}: it needs the role {call.method.role}, and the "
            f"certificate gives {', '.join(sorted(call.principal.roles))}",
            reason="ROLE_MISSING",
            metadata={"needed": call.method.role},
        )
    await proceed(call)


def may(principal: Principal, method: AnyMethod) -> bool:
    """The principal holds a role that allows the method."""
    return any(method.role in GRANTS[role] for role in principal.roles)
