"""The one table of methods: name, messages, cardinality, and the role that it takes to call it.

Server, client, authorization and tests all read this table; a method that is not in it cannot be served, and a
method cannot be put in it without saying who may call it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import betterproto

from api import messages as m
from api.roles import Role

Request = TypeVar("Request", bound=betterproto.Message)
Response = TypeVar("Response", bound=betterproto.Message)
_Request = TypeVar("_Request", bound=betterproto.Message, covariant=True)
_Response = TypeVar("_Response", bound=betterproto.Message, covariant=True)
"""Of a method, which is only read: one of some messages is one of any."""


class Cardinality(enum.Enum):
    """How many messages go each way (the client's side first)."""

    UNARY_UNARY = "unary"
    UNARY_STREAM = "server stream"
    STREAM_STREAM = "bidirectional stream"


@dataclass(frozen=True, slots=True)
class Method(Generic[_Request, _Response]):
    """One RPC.

    Attributes:
        service: the full name of the service, package included.
        name: the method's name in the service.
        request, response: the message classes.
        cardinality: how many messages go each way.
        role: the role that the caller needs; a writer has a reader's role too.
    """

    service: str
    name: str
    request: type[_Request]
    response: type[_Response]
    cardinality: Cardinality
    role: Role

    @property
    def path(self) -> str:
        """The HTTP/2 ``:path`` of the method."""
        return f"/{self.service}/{self.name}"


JOB_WORKER: Final = "jobworker.v1.JobWorkerService"
HEALTH: Final = "grpc.health.v1.Health"
REFLECTION: Final = "grpc.reflection.v1.ServerReflection"
REFLECTION_ALPHA: Final = "grpc.reflection.v1alpha.ServerReflection"

_U, _S, _B = Cardinality.UNARY_UNARY, Cardinality.UNARY_STREAM, Cardinality.STREAM_STREAM

START: Final = Method(JOB_WORKER, "Start", m.StartRequest, m.StartResponse, _U, Role.WRITER)
STOP: Final = Method(JOB_WORKER, "Stop", m.StopRequest, m.StopResponse, _U, Role.WRITER)
SIGNAL: Final = Method(JOB_WORKER, "Signal", m.SignalRequest, m.SignalResponse, _U, Role.WRITER)
DELETE: Final = Method(JOB_WORKER, "Delete", m.DeleteRequest, m.DeleteResponse, _U, Role.WRITER)
QUERY: Final = Method(JOB_WORKER, "Query", m.QueryRequest, m.QueryResponse, _U, Role.READER)
STREAM: Final = Method(JOB_WORKER, "Stream", m.StreamRequest, m.StreamResponse, _S, Role.READER)
ATTACH: Final = Method(JOB_WORKER, "Attach", m.AttachRequest, m.AttachResponse, _B, Role.WRITER)
LIST: Final = Method(JOB_WORKER, "List", m.ListRequest, m.ListResponse, _U, Role.READER)
WAIT: Final = Method(JOB_WORKER, "Wait", m.WaitRequest, m.WaitResponse, _U, Role.READER)
LIST_WORKERS: Final = Method(JOB_WORKER, "ListWorkers", m.ListWorkersRequest, m.ListWorkersResponse, _U, Role.READER)
DRAIN: Final = Method(JOB_WORKER, "Drain", m.DrainRequest, m.DrainResponse, _U, Role.WRITER)
UNDRAIN: Final = Method(JOB_WORKER, "Undrain", m.UndrainRequest, m.UndrainResponse, _U, Role.WRITER)
FORGET: Final = Method(JOB_WORKER, "Forget", m.ForgetRequest, m.ForgetResponse, _U, Role.WRITER)
CHECK: Final = Method(HEALTH, "Check", m.HealthCheckRequest, m.HealthCheckResponse, _U, Role.READER)
WATCH: Final = Method(HEALTH, "Watch", m.HealthCheckRequest, m.HealthCheckResponse, _S, Role.READER)
_ASKED, _TOLD = m.ServerReflectionRequest, m.ServerReflectionResponse  # the same in both versions
REFLECT: Final = Method(REFLECTION, "ServerReflectionInfo", _ASKED, _TOLD, _B, Role.READER)
REFLECT_ALPHA: Final = Method(REFLECTION_ALPHA, "ServerReflectionInfo", _ASKED, _TOLD, _B, Role.READER)

AnyMethod = Method[betterproto.Message, betterproto.Message]

METHODS: Final[tuple[AnyMethod, ...]] = (
    START,
    STOP,
    SIGNAL,
    DELETE,
    QUERY,
    STREAM,
    ATTACH,
    LIST,
    WAIT,
    LIST_WORKERS,
    DRAIN,
    UNDRAIN,
    FORGET,
    CHECK,
    WATCH,
    REFLECT,
    REFLECT_ALPHA,
)
BY_PATH: Final[dict[str, AnyMethod]] = {method.path: method for method in METHODS}
