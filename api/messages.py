"""The messages of the contract under the names that the rest of the project uses.

They are generated from ``api/proto`` (see ``api/proto/generate.py``); what each field means is said there.
"""

from api._generated.grpc.health.v1 import HealthCheckRequest, HealthCheckResponse, HealthCheckResponseServingStatus
from api._generated.jobworker.v1 import (
    DeleteRequest,
    DeleteResponse,
    Gap,
    Heartbeat,
    Job,
    JobSpec,
    JobState,
    ListRequest,
    ListResponse,
    ListWorkersRequest,
    ListWorkersResponse,
    Output,
    OutputSource,
    QueryRequest,
    QueryResponse,
    SignalRequest,
    SignalResponse,
    StartRequest,
    StartResponse,
    StopRequest,
    StopResponse,
    StreamRequest,
    StreamResponse,
    Verdict,
    WaitMode,
    WaitRequest,
    WaitResponse,
    Worker,
)

__all__ = [
    "TERMINAL_STATES",
    "DeleteRequest",
    "DeleteResponse",
    "Gap",
    "HealthCheckRequest",
    "HealthCheckResponse",
    "HealthCheckResponseServingStatus",
    "Heartbeat",
    "Job",
    "JobSpec",
    "JobState",
    "ListRequest",
    "ListResponse",
    "ListWorkersRequest",
    "ListWorkersResponse",
    "Output",
    "OutputSource",
    "QueryRequest",
    "QueryResponse",
    "SignalRequest",
    "SignalResponse",
    "StartRequest",
    "StartResponse",
    "StopRequest",
    "StopResponse",
    "StreamRequest",
    "StreamResponse",
    "Verdict",
    "WaitMode",
    "WaitRequest",
    "WaitResponse",
    "Worker",
]

TERMINAL_STATES = frozenset(
    {
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.KILLED,
        JobState.STOPPED,
        JobState.START_FAILED,
        JobState.LOST,
    }
)
"""The states that a job never leaves."""
