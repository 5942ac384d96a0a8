"""Who is it? The principal in the client's certificate, which TLS has verified before any call."""

from __future__ import annotations

from api.errors import IdentityError, UnauthenticatedError
from api.identity import principal_of_der
from api.rpc.server import Handler, ServerCall


async def authenticate(call: ServerCall, proceed: Handler) -> None:
    """Set ``call.principal``, or end the call as UNAUTHENTICATED."""
    if call.peer_certificate is None:
        raise UnauthenticatedError("a client certificate is needed", reason="NO_CERTIFICATE")
    try:
        call.principal = principal_of_der(call.peer_certificate)
    except IdentityError as exc:
        raise UnauthenticatedError(f"the client certificate names no principal: {exc}", reason="NO_PRINCIPAL") from exc
    await proceed(call)
