"""The errors that a user of the API sees, and that a handler raises to answer a call with a status.

    JobdError                      anything this project raises on purpose
    ├── ConfigError                a flag, file or setting that cannot be used (names it and says what to do)
    │   └── CredentialsError       … a certificate, key or CA file that cannot be used
    ├── IdentityError              a certificate that names nobody
    ├── StreamCutError             an output stream that ended without its verdict
    ├── InputCutError              an attachment that was cut while bytes for a job's stdin were on their way
    └── RpcError                   a call that ended with a status other than OK; one subclass for each gRPC code

``RpcError.message`` is written for the peer. The cause, if there is one, is chained (``raise … from exc``) and
stays on the side where it happened: only ``message``, ``reason``, ``metadata`` and ``violations`` go over the wire.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

DOMAIN: Final = "jobd"
"""The ``domain`` of every ``google.rpc.ErrorInfo`` made here (AIP-193)."""


class JobdError(Exception):
    """Anything this project raises on purpose. ``str(error)`` is a sentence for a person."""


class ConfigError(JobdError):
    """A flag, environment variable or file cannot be used as it is."""


class CredentialsError(ConfigError):
    """A certificate, private key or CA file is missing, unreadable, damaged or does not fit the others."""


class IdentityError(JobdError):
    """A certificate does not name a principal in the form that ``api.identity`` asks for."""


class StreamCutError(JobdError):
    """An output stream ended before its verdict: what was received is a prefix, not the whole.

    Attributes:
        offset: the offset of the first byte that was *not* received; reading can go on from there.
    """

    def __init__(self, message: str, *, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


class InputCutError(JobdError):
    """An attachment was cut while bytes were on their way: sending them again could give them to the job twice.

    Attributes:
        accepted: bytes that were written into the job's stdin for certain, since the attachment began.
        uncertain: those after them that were, or were not.
        offset: as in :class:`StreamCutError`.
    """

    def __init__(self, message: str, *, accepted: int, uncertain: int, offset: int) -> None:
        super().__init__(message)
        self.accepted = accepted
        self.uncertain = uncertain
        self.offset = offset


class Code(enum.IntEnum):
    """gRPC status codes (https://grpc.io/docs/guides/status-codes/)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that cannot be accepted (``google.rpc.BadRequest.FieldViolation``)."""

    field: str
    description: str


class RpcError(JobdError):
    """A call that ended with a status other than OK.

    Attributes:
        code: the gRPC code.
        message: what was wrong, where, and what to do; written for the peer.
        reason: a constant in UPPER_SNAKE_CASE for programs (``google.rpc.ErrorInfo.reason``), or "".
        metadata: the facts behind the message, as strings (``ErrorInfo.metadata``).
        violations: the request's fields that were refused (``google.rpc.BadRequest``).
        retry_after: seconds after which the call may be made again (``google.rpc.RetryInfo``), if that was said.
    """

    code: ClassVar[Code] = Code.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: tuple[FieldViolation, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = violations
        self.retry_after = retry_after


class UnknownError(RpcError):
    """The peer failed in a way that it does not explain, or with a code that the standard does not name."""


class CancelledError(RpcError):
    """The call was cancelled, usually by the one who made it."""

    code = Code.CANCELLED


class InvalidArgumentError(RpcError):
    """The request is wrong whatever the state of the system; ``violations`` names the fields."""

    code = Code.INVALID_ARGUMENT


class DeadlineExceededError(RpcError):
    """The call's deadline passed before it ended."""

    code = Code.DEADLINE_EXCEEDED


class NotFoundError(RpcError):
    """What the request names is not there."""

    code = Code.NOT_FOUND


class AlreadyExistsError(RpcError):
    """What the request would make is there already, and is something else."""

    code = Code.ALREADY_EXISTS


class PermissionDeniedError(RpcError):
    """The caller is known and may not do this."""

    code = Code.PERMISSION_DENIED


class ResourceExhaustedError(RpcError):
    """A limit was reached. With ``retry_after``, clients try again by themselves."""

    code = Code.RESOURCE_EXHAUSTED


class FailedPreconditionError(RpcError):
    """The system is not in the state that the request needs; trying again alone does not help."""

    code = Code.FAILED_PRECONDITION


class AbortedError(RpcError):
    """A conflict with another call; try the whole step again."""

    code = Code.ABORTED


class OutOfRangeError(RpcError):
    """An offset or page beyond what is there."""

    code = Code.OUT_OF_RANGE


class UnimplementedError(RpcError):
    """The server has no such method, or not in this form."""

    code = Code.UNIMPLEMENTED


class InternalError(RpcError):
    """The server failed; its log says why."""

    code = Code.INTERNAL


class UnavailableError(RpcError):
    """The server cannot be reached or is going away. Clients try again by themselves."""

    code = Code.UNAVAILABLE


class DataLossError(RpcError):
    """Data that should be there is damaged or gone."""

    code = Code.DATA_LOSS


class UnauthenticatedError(RpcError):
    """The caller's certificate was refused, or names nobody."""

    code = Code.UNAUTHENTICATED


_BY_CODE: Final[dict[int, type[RpcError]]] = {cls.code: cls for cls in RpcError.__subclasses__()}


def error_for(code: int) -> type[RpcError]:
    """The class for a status code from the wire; a code that the standard does not name is UNKNOWN."""
    return _BY_CODE.get(code, UnknownError)
