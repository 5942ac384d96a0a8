"""RpcError to ``google.rpc.Status`` bytes and back (AIP-193; ``grpc-status-details-bin``)."""

from __future__ import annotations

import base64
import binascii
import urllib.parse
from datetime import timedelta
from typing import Final

import betterproto
from betterproto.lib.google.protobuf import Any

from api._generated.google.rpc import BadRequest, BadRequestFieldViolation, ErrorInfo, RetryInfo, Status
from api.errors import DOMAIN, FieldViolation, RpcError, error_for
from api.protobuf import MalformedMessageError, decode, encode

OK: Final = (("grpc-status", "0"),)
"""The trailers of a call that ended well."""
_TYPE: Final = "type.googleapis.com/google.rpc."


def details_of(error: RpcError) -> bytes | None:
    """The serialised ``google.rpc.Status`` for an error, or None when there is nothing beyond code and message."""
    details: list[betterproto.Message] = []
    if error.reason:
        details.append(ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata))
    if error.violations:
        details.append(
            BadRequest(
                field_violations=[
                    BadRequestFieldViolation(field=v.field, description=v.description) for v in error.violations
                ]
            )
        )
    if error.retry_after is not None:
        details.append(RetryInfo(retry_delay=timedelta(seconds=error.retry_after)))
    if not details:
        return None
    packed = [Any(type_url=_TYPE + type(detail).__name__, value=encode(detail)) for detail in details]
    return encode(Status(code=int(error.code), message=error.message, details=packed))


def trailers_of(error: RpcError | None) -> tuple[tuple[str, str], ...]:
    """What says how a call ended: with an error, or with OK."""
    if error is None:
        return OK
    details = details_of(error)
    said = [("grpc-status", str(int(error.code))), ("grpc-message", percent(error.message))]
    if details:
        said.append(("grpc-status-details-bin", base64.b64encode(details).rstrip(b"=").decode()))
    return tuple(said)


def percent(message: str) -> str:
    """Percent-encode as gRPC asks: everything but printable ASCII, and the percent sign."""
    return urllib.parse.quote(message, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")


def error_from(code: int, message: str, details: str | list[str] | None) -> RpcError | None:
    """The error that a response ended with, or None when it ended with OK. Damaged details are left out."""
    if code == 0:
        return None
    reason, metadata = "", dict[str, str]()
    violations: tuple[FieldViolation, ...] = ()
    retry_after: float | None = None
    for detail in _unpack(details):
        if isinstance(detail, ErrorInfo):
            reason, metadata = detail.reason, detail.metadata
        elif isinstance(detail, BadRequest):
            violations = tuple(FieldViolation(v.field, v.description) for v in detail.field_violations)
        elif isinstance(detail, RetryInfo):
            retry_after = max(detail.retry_delay.total_seconds(), 0.0)
    return error_for(code)(message, reason=reason, metadata=metadata, violations=violations, retry_after=retry_after)


def _unpack(details: str | list[str] | None) -> list[betterproto.Message]:
    if not isinstance(details, str):
        return []
    try:
        status = decode(Status, base64.b64decode(details + "=" * (-len(details) % 4)))
        return [
            decode(known, any_.value)
            for any_ in status.details
            for known in (ErrorInfo, BadRequest, RetryInfo)
            if any_.type_url == _TYPE + known.__name__
        ]
    except (binascii.Error, MalformedMessageError):
        return []
