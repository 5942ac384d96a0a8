"""What can go wrong between this program and etcd.

    EtcdError                  a request that etcd did not do, or perhaps did
    ├── StoreUnavailableError  nobody answers, there is no leader, or too much at once: later, perhaps
    ├── NotEtcdError           who answers there speaks something else
    ├── EtcdCertificateError   one side refused the other's certificate
    ├── DeniedError            etcd's own access rules (RBAC) refuse it
    ├── StoreFullError         the quota is used up: etcd takes nothing that grows, until an operator has been there
    ├── TooLargeError          the request is over etcd's limit
    ├── CompactedError         the revision that was asked for is no longer kept
    ├── LeaseGoneError         the lease has ended, or never was
    └── RejectedError          etcd takes the request for a wrong one: a fault of this program

The messages are for the operator and the log; they may hold words of etcd, and go to no peer.
"""

from __future__ import annotations

from typing import Final

from api.errors import Code, JobdError, RpcError
from api.rpc.connection import NOT_GRPC


class EtcdError(JobdError):
    """A request that etcd did not do, or perhaps did.

    Attributes:
        ambiguous: it may have been done all the same, or be done still: look before you go on. Only of what writes.
    """

    def __init__(self, message: str, *, ambiguous: bool = False) -> None:
        super().__init__(message)
        self.ambiguous = ambiguous


class StoreUnavailableError(EtcdError):
    """Nobody answers, there is no leader, or too much is asked at once."""


class NotEtcdError(EtcdError):
    """Who answers there speaks something else."""


class EtcdCertificateError(EtcdError):
    """One side refused the other's certificate."""


class DeniedError(EtcdError):
    """etcd's own access rules refuse it."""


class StoreFullError(EtcdError):
    """etcd's quota is used up."""


class TooLargeError(EtcdError):
    """The request is over etcd's limit (1.5 MiB, if nobody changed it), or the answer over ours."""


class CompactedError(EtcdError):
    """The revision is no longer kept, or (after a restore) not there yet."""


class LeaseGoneError(EtcdError):
    """The lease has ended, or never was."""


class RejectedError(EtcdError):
    """etcd takes the request for a wrong one."""


# etcd tells most of its errors apart by their texts alone, which have been the same since 3.0: its own client looks
# them up so (api/v3rpc/rpctypes/error.go).
NO_LEADER: Final = "etcdserver: no leader"
LEASE_EXISTS: Final = "etcdserver: lease already exists"
_BY_TEXT: Final[dict[str, tuple[type[EtcdError], str]]] = {
    # Said before anything was proposed to the members: certain, also for what writes.
    NO_LEADER: (
        StoreUnavailableError,
        "the etcd at {where} knows no leader: too few members are up, or reach it",
    ),
    "etcdserver: too many requests": (StoreUnavailableError, "the etcd at {where} has too much to do"),
    "raft proposal dropped": (StoreUnavailableError, "the etcd at {where} is changing its leader"),
    "etcdserver: mvcc: database space exceeded": (
        StoreFullError,
        "the quota of the etcd at {where} is used up: compact, defragment and disarm its alarm (etcdctl alarm)",
    ),
    "etcdserver: request is too large": (TooLargeError, "the request is over the limit of the etcd at {where}"),
    "etcdserver: mvcc: required revision has been compacted": (CompactedError, "the revision was compacted"),
    "etcdserver: mvcc: required revision is a future revision": (CompactedError, "the revision is not there yet"),
    "etcdserver: requested lease not found": (LeaseGoneError, "the lease has ended"),
}
_BY_CODE: Final[dict[Code, tuple[type[EtcdError], str]]] = {
    Code.RESOURCE_EXHAUSTED: (TooLargeError, "a message between us and the etcd at {where} is over a limit"),
    Code.PERMISSION_DENIED: (
        DeniedError,
        "the etcd at {where} does not let our CN do this: see its roles",
    ),
    Code.UNIMPLEMENTED: (NotEtcdError, "the server at {where} does not know etcd's calls"),
    Code.INVALID_ARGUMENT: (RejectedError, "the etcd at {where} rejects the request"),
    Code.FAILED_PRECONDITION: (RejectedError, "the etcd at {where} rejects the request"),
    Code.NOT_FOUND: (RejectedError, "the etcd at {where} rejects the request"),
    Code.OUT_OF_RANGE: (RejectedError, "the etcd at {where} rejects the request"),
}


def from_rpc(error: RpcError, where: str, *, writes: bool) -> EtcdError:
    """What the end of a call means.

    Args:
        where: HOST:PORT.
        writes: the call changes something, if it is done.
    """
    known = _BY_TEXT.get(error.message) or _BY_CODE.get(error.code)
    if known:
        kind, message = known
        message = message.format(where=where)
        too_large_for_us = error.reason == "MESSAGE_TOO_LARGE"  # the answer to what was done
        return kind(
            message if error.message in _BY_TEXT else f"{message}: {_shown(error)}",
            ambiguous=writes and too_large_for_us,
        )
    if error.reason == NOT_GRPC:
        return NotEtcdError(f"what the server at {where} answers is not gRPC: is it etcd?", ambiguous=writes)
    if error.code == Code.UNAUTHENTICATED:  # in the handshake, by the other side; we use no passwords
        return EtcdCertificateError(f"{_shown(error)} (its --trusted-ca-file, our --pool-cert)", ambiguous=writes)
    if error.code == Code.DEADLINE_EXCEEDED:
        return StoreUnavailableError(f"the etcd at {where} did not answer in time", ambiguous=writes)
    return StoreUnavailableError(f"the etcd at {where} failed: {_shown(error)}", ambiguous=writes)


def _shown(error: RpcError) -> str:
    """Somebody else's words, for one line of a log."""
    return "".join(char if char.isprintable() else "?" for char in error.message[:200])
