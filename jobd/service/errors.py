"""The one mapping from what goes wrong with jobs to what a caller is told."""

from __future__ import annotations

from typing import Final

import structlog

from api.errors import (
    AbortedError,
    AlreadyExistsError,
    DataLossError,
    FailedPreconditionError,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
    PermissionDeniedError,
    ResourceExhaustedError,
    RpcError,
    UnavailableError,
)
from api.rpc.server import Handler, ServerCall
from jobd.worker import errors as e

log = structlog.get_logger(__name__)

STATUSES: Final[dict[type[e.WorkerError], tuple[type[RpcError], str]]] = {
    e.InvalidSpecError: (InvalidArgumentError, "INVALID_SPEC"),
    e.JobNotFoundError: (NotFoundError, "JOB_NOT_FOUND"),
    e.InvalidIdError: (InvalidArgumentError, "INVALID_JOB_ID"),
    e.AmbiguousIdError: (InvalidArgumentError, "AMBIGUOUS_JOB_ID"),
    e.StopFailedError: (FailedPreconditionError, "STOP_FAILED"),
    e.LauncherGoneError: (UnavailableError, "LAUNCHER_GONE"),
    e.JobNotRunningError: (FailedPreconditionError, "JOB_NOT_RUNNING"),
    e.JobEndedError: (FailedPreconditionError, "JOB_ENDED"),
    e.NotAttachableError: (FailedPreconditionError, "NOT_ATTACHABLE"),
    e.ForbiddenUserError: (PermissionDeniedError, "USER_FORBIDDEN"),
    e.AlreadyAttachedError: (FailedPreconditionError, "ALREADY_ATTACHED"),
    e.AttachmentTakenOverError: (AbortedError, "ATTACHMENT_TAKEN_OVER"),
    e.StdinClosedError: (FailedPreconditionError, "STDIN_CLOSED"),
    e.StdinIsTerminalError: (FailedPreconditionError, "STDIN_IS_TERMINAL"),
    e.NoTerminalError: (FailedPreconditionError, "NO_TERMINAL"),
    e.JobNotEndedError: (FailedPreconditionError, "JOB_NOT_ENDED"),
    e.RequestIdReusedError: (AlreadyExistsError, "REQUEST_ID_REUSED"),
    e.NoPoolError: (FailedPreconditionError, "NO_POOL"),
    e.PoolUnavailableError: (UnavailableError, "POOL_UNAVAILABLE"),
    e.PoolFullError: (UnavailableError, "POOL_FULL"),
    e.NoSuchWorkerError: (NotFoundError, "NO_SUCH_WORKER"),
    e.WorkerGoneError: (UnavailableError, "WORKER_UNREACHABLE"),
    e.WorkerIsThereError: (FailedPreconditionError, "WORKER_IS_THERE"),
    e.JobRunsAgainError: (UnavailableError, "JOB_RUNS_AGAIN"),
    e.RunLostError: (AbortedError, "RUN_LOST"),
    e.QueueFullError: (ResourceExhaustedError, "QUEUE_FULL"),
    e.TooManyJobsError: (ResourceExhaustedError, "TOO_MANY_JOBS"),
    e.OffsetBeyondEndError: (OutOfRangeError, "OFFSET_BEYOND_END"),
    e.OutputDamagedError: (DataLossError, "OUTPUT_DAMAGED"),
    e.OutputUnavailableError: (UnavailableError, "OUTPUT_UNAVAILABLE"),
    e.RecordDamagedError: (DataLossError, "RECORD_DAMAGED"),
    e.StoreError: (UnavailableError, "STORE_UNAVAILABLE"),
}

_UNTOLD: Final[dict[type[e.WorkerError], str]] = {e.StoreError: "the server cannot record jobs now; its log says why"}
"""Errors whose text is about the inside of the server: the peer is told this instead."""


_FIELDS: Final[dict[type[e.WorkerError], str]] = {
    e.JobEndedError: "start.job_id",
    e.NotAttachableError: "start.job_id",
    e.AlreadyAttachedError: "start.job_id",
    e.StdinClosedError: "data",
    e.StdinIsTerminalError: "close_stdin",
}
"""The field of an Attach's request that asks for what cannot be. (Other calls have one field that it can be.)"""


def _field(exc: e.WorkerError, message: str) -> tuple[FieldViolation, ...]:
    field = _FIELDS.get(type(exc))
    return (FieldViolation(field, message),) if field else ()


async def translate_errors(call: ServerCall, proceed: Handler) -> None:
    """Middleware: end the call with the status for what the handler raised."""
    try:
        await proceed(call)
    except e.WorkerError as exc:
        raise rpc_error(exc) from exc


def rpc_error(exc: e.WorkerError) -> RpcError:
    """What a caller is told."""
    kind, reason = STATUSES.get(type(exc), (InternalError, "INTERNAL"))
    message = _UNTOLD.get(type(exc), str(exc) if kind is not InternalError else "the server failed")
    if message != str(exc):
        log.error("a call failed", error=str(exc))
    violations = exc.violations if isinstance(exc, e.InvalidSpecError) else _field(exc, message)
    return kind(message, reason=reason, violations=violations)
