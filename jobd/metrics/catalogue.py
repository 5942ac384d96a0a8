"""The metrics: the name of each, what it means, and where it is read.

Names, units and suffixes are as https://prometheus.io/docs/practices/naming/ has them. Labels have few values, and none
that a client or a job can make up: methods of the table, codes, states and reasons; never ids, commands or principals.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import trio

from api.rpc.statistics import Connections
from api.version import VERSION
from jobd.audit.log import AuditLog
from jobd.broker.broker import Broker
from jobd.metrics.calls import Calls
from jobd.metrics.durations import Histogram
from jobd.middleware.quotas import REASONS, Quotas
from jobd.output.budget import Budget
from jobd.storage.sqlite import SqliteStore
from jobd.trust.live import LiveTrust
from jobd.worker.job import Reason
from jobd.worker.lifecycle import LIVE, State

COMMIT_BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds: a commit is as slow as the disk."""
LOST: Final = (Reason.DAEMON_LOST, Reason.LAUNCHER_LOST, Reason.REBOOTED, Reason.RESTORED, Reason.SUPERVISOR_FAILED)
"""Why jobs are lost here. They are counted from the start: an alert asks whether they grow, for which there has to be a
zero."""
Values = Iterable[tuple[tuple[str, ...], Any]]


@dataclass(frozen=True, slots=True)
class Sources:
    """Whose state is read.

    Attributes:
        slots: how many jobs can run at a time.
        max_pending: how many may wait.
        launcher_gone: None without a launcher.
        audit_log: None when it is a part of the log.
    """

    calls: Calls
    commits: Histogram
    connections: Connections
    quotas: Quotas
    broker: Broker
    store: SqliteStore
    budget: Budget
    trust: LiveTrust
    draining: trio.Event
    launcher_gone: trio.Event | None
    audit_log: AuditLog | None
    slots: int
    max_pending: int


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        kind: counter, gauge or histogram.
        read: its values (histograms: :class:`Histogram`), each with the values of its labels.
    """

    name: str
    kind: str
    help: str
    read: Callable[[Sources], Values]
    labels: tuple[str, ...] = ()


def _one(read: Callable[[Sources], float]) -> Callable[[Sources], Values]:
    return lambda sources: [((), read(sources))]


def _by(read: Callable[[Sources], Mapping[str, float]]) -> Callable[[Sources], Values]:
    return lambda sources: [((label,), value) for label, value in read(sources).items()]


def _cut(sources: Sources) -> Mapping[str, float]:
    found = sources.connections.statistics()
    return {"flood": found.sent_away, "protocol": found.broke_protocol}


def _held(sources: Sources) -> Mapping[str, float]:
    held = sources.connections.statistics().held
    return {"unread": held.unread_bytes, "ready": held.ready_bytes, "unsent": held.unsent_bytes}


def _jobs(sources: Sources) -> Mapping[str, float]:
    found = dict.fromkeys(sorted(LIVE), 0)
    for entry in sources.broker.registry.live:
        if (state := entry.cell.job.state) in LIVE:
            found[state] += 1
    return {str(state): count for state, count in found.items()}


def _ended(sources: Sources) -> Values:
    found = {(State.LOST, str(reason)): 0 for reason in LOST} | sources.broker.registry.ended
    return [((str(state), _known(reason)), count) for (state, reason), count in found.items()]


def _known(reason: str) -> str:
    return str(Reason(reason)) if reason in set(Reason) else "OTHER"


def _waited(sources: Sources) -> float:
    """Of all that wait: a job that comes back to the queue keeps its age."""
    waiting = (entry.cell.job for entry in sources.broker.registry.live)
    since = min((job.created_at for job in waiting if job.state is State.PENDING), default=None)
    return 0.0 if since is None else max(0.0, time.time() - since / 1e9)


def _expiries(sources: Sources) -> Values:
    found: dict[tuple[str, ...], float] = {}
    for term in sources.trust.trust.terms:  # two of one name: what ends first
        key = (term.kind, term.what)
        found[key] = min(found.get(key, term.ends.timestamp()), term.ends.timestamp())
    return found.items()


def _audit(sources: Sources) -> Mapping[str, float]:
    audit_log = sources.audit_log
    return {"written": audit_log.written, "lost": audit_log.lost} if audit_log else {}


def _launcher(sources: Sources) -> Values:
    return [] if sources.launcher_gone is None else [((), not sources.launcher_gone.is_set())]


METRICS: Final = (
    Metric("jobd_build_info", "gauge", "1, with this server's version.", _by(lambda _: {VERSION: 1}), ("version",)),
    Metric("jobd_draining", "gauge", "1 when this server takes no more calls.", _one(lambda s: s.draining.is_set())),
    Metric(
        "jobd_calls_total",
        "counter",
        "Calls that have ended, by their status; what is no method counts as unknown.",
        lambda s: s.calls.codes(),
        ("service", "method", "code"),
    ),
    Metric(
        "jobd_call_duration_seconds",
        "histogram",
        "From when a call was heard until it ended; a stream lasts as long as its job.",
        lambda s: s.calls.durations(),
        ("service", "method"),
    ),
    Metric("jobd_open_calls", "gauge", "Calls that are open.", _one(lambda s: s.connections.statistics().held.calls)),
    Metric(
        "jobd_open_streams",
        "gauge",
        "Those of them that last: Stream, Attach, Wait, Watch, reflection.",
        _one(lambda s: s.quotas.streams),
    ),
    Metric(
        "jobd_open_connections",
        "gauge",
        "Connections that are open.",
        _one(lambda s: s.connections.statistics().connections),
    ),
    Metric(
        "jobd_connections_total",
        "counter",
        "Connections so far, the open ones included.",
        _one(lambda s: s.connections.statistics().connections_served),
    ),
    Metric(
        "jobd_connections_cut_total",
        "counter",
        "Connections that were ended for what their client sent: too much that is no call (flood), or no HTTP/2.",
        _by(_cut),
        ("cause",),
    ),
    Metric(
        "jobd_stream_offences_total",
        "counter",
        "Requests that were refused or reset for what they were, before they were calls.",
        _one(lambda s: s.connections.statistics().offences),
    ),
    Metric(
        "jobd_handshakes_failed_total",
        "counter",
        "Connections that came to nothing: no certificate, a bad one, no TLS, too slow.",
        _one(lambda s: s.connections.statistics().handshakes_refused),
    ),
    Metric(
        "jobd_received_bytes_total",
        "counter",
        "Bytes of HTTP/2 from clients.",
        _one(lambda s: s.connections.statistics().received),
    ),
    Metric(
        "jobd_sent_bytes_total",
        "counter",
        "Bytes of HTTP/2 to clients: streamed output, for the most part.",
        _one(lambda s: s.connections.statistics().sent),
    ),
    Metric(
        "jobd_held_bytes",
        "gauge",
        "Bytes that connections hold: requests that nobody has taken yet (unread), answers that wait for a client's "
        "window (ready), and those that the kernel has not taken (unsent).",
        _by(_held),
        ("what",),
    ),
    Metric(
        "jobd_quota_refusals_total",
        "counter",
        "Calls and connections that were refused for their principal's quota.",
        _by(lambda s: {reason: s.quotas.refused[reason] for reason in REASONS}),
        ("reason",),
    ),
    Metric("jobd_principals", "gauge", "Principals that came lately.", _one(lambda s: s.quotas.principals)),
    Metric("jobd_jobs", "gauge", "Jobs that have not ended.", _by(_jobs), ("state",)),
    Metric(
        "jobd_jobs_accepted_total",
        "counter",
        "Jobs that were started or queued, and recorded.",
        _one(lambda s: s.broker.registry.accepted),
    ),
    Metric("jobd_jobs_ended_total", "counter", "Jobs that have ended, by how and why.", _ended, ("state", "reason")),
    Metric("jobd_queue_length", "gauge", "Jobs that wait for a worker.", _one(lambda s: s.broker.pending)),
    Metric("jobd_queue_limit", "gauge", "Jobs that may wait (--max-pending).", _one(lambda s: s.max_pending)),
    Metric("jobd_queue_oldest_seconds", "gauge", "How long the oldest of them has waited.", _one(_waited)),
    Metric("jobd_slots", "gauge", "Jobs that may run at a time.", _one(lambda s: s.slots)),
    Metric("jobd_launcher_up", "gauge", "1 while the launcher lives (not in 'jobd dev').", _launcher),
    Metric("jobd_store_up", "gauge", "0 when the job store could not be written.", _one(lambda s: not s.store.failing)),
    Metric(
        "jobd_store_commit_duration_seconds",
        "histogram",
        "What it took to make changes of jobs durable, each time.",
        lambda s: [((), s.commits)],
    ),
    Metric(
        "jobd_output_recorded_bytes_total",
        "counter",
        "Bytes of output, recorded.",
        _one(lambda s: s.budget.taken),
    ),
    Metric(
        "jobd_output_dropped_bytes_total",
        "counter",
        "Bytes of jobs' output that could not be recorded: the disk, or a limit.",
        _one(lambda s: s.budget.dropped),
    ),
    Metric(
        "jobd_output_stored_bytes",
        "gauge",
        "Bytes of output that are kept: of jobs that run (live), and of jobs that have ended.",
        _by(lambda s: {"live": s.budget.live, "ended": s.budget.ended}),
        ("of",),
    ),
    Metric(
        "jobd_output_limit_bytes",
        "gauge",
        "Bytes of it that may be (--keep-output).",
        _one(lambda s: s.budget.limit),
    ),
    Metric(
        "jobd_audit_lines_total",
        "counter",
        "Lines of the audit log (--audit-log): written, and lost since the disk took none.",
        _by(_audit),
        ("what",),
    ),
    Metric(
        "jobd_certificate_expiry_timestamp_seconds",
        "gauge",
        "Until when the server's certificate, the CAs' (ca) and the revocation lists (crl) are good.",
        _expiries,
        ("kind", "subject"),
    ),
    Metric(
        "jobd_certificate_files_ok",
        "gauge",
        "0 when the files of certificates have changed and cannot be used: the old ones are in force.",
        _one(lambda s: not s.trust.failing),
    ),
)
