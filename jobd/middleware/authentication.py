"""Who is it? The principal in the client's certificate, which TLS has verified, and which is trusted still."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from api.errors import IdentityError, UnauthenticatedError
from api.identity import principal_of_der
from api.rpc.server import Handler, ServerCall

# What a certificate says does not change.
_principal: Final = lru_cache(maxsize=256)(principal_of_der)


async def authenticate(call: ServerCall, proceed: Handler) -> None:
    """Set ``call.principal``, or end the call as UNAUTHENTICATED."""
    if call.peer_certificate is None:
        raise UnauthenticatedError("a client certificate is needed", reason="NO_CERTIFICATE")
    try:
        call.principal = _principal(call.peer_certificate)
    except IdentityError as exc:
        raise UnauthenticatedError(f"the client certificate names no principal: {exc}", reason="NO_PRINCIPAL") from exc
    if call.refusal:  # said when the connection was made, or since: what was trusted then may not be now
        raise call.refusal.error()
    await proceed(call)
