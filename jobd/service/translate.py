"""Between the contract's messages and the domain's types (for stdin: :mod:`jobd.service.translate_stdin`)."""

from __future__ import annotations

import base64
import binascii
import signal
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from time import time_ns
from typing import Final

import betterproto

from api import messages as m
from api.protobuf import encode, new, varint
from api.rpc.codec import Buffer, WireMessage
from api.trace import TraceContext
from jobd.broker.registry import WorkerView
from jobd.service.refusal import refuse as refuse
from jobd.service.translate_stdin import stdin_fields, stdin_of
from jobd.worker.containment import CONTAINED, Limits, Receipt, Usage
from jobd.worker.ending import StopMode
from jobd.worker.isolation import NO_ISOLATION, Isolation
from jobd.worker.job import LIMITS, Job, JobSpec
from jobd.worker.lifecycle import State
from jobd.worker.ports import Gap, Record, Source, Start
from jobd.worker.supervisor import Stop

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MAX_REQUEST_ID: Final = 128
MAX_GRACE: Final = 86400.0
DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 1000
ABRIDGED_SPEC: Final = 1024
MAX_JOBS_OF_WORKER: Final = 100

TO_STATE: Final[dict[State, m.JobState]] = {state: m.JobState[state.name] for state in State}
FROM_STATE: Final = {number: state for state, number in TO_STATE.items()}
STOP_MODES: Final[dict[int, StopMode]] = {
    m.StopMode.UNSPECIFIED: StopMode.GROUP,
    m.StopMode.GROUP: StopMode.GROUP,
    m.StopMode.MAIN: StopMode.MAIN,
}
WAIT_MODES: Final[dict[int, bool]] = {
    m.WaitMode.UNSPECIFIED: False,
    m.WaitMode.ALL: False,
    m.WaitMode.ANY: True,
}


# ---- in


def spec_of(request: m.StartRequest, trace: TraceContext | None = None) -> JobSpec:
    """The spec asked for, in this trace; what it says is judged by the worker library."""
    spec = request.spec
    stdin, data, terminal = stdin_of(spec)
    return JobSpec(
        tuple(spec.argv),
        spec.name,
        dict(spec.env),
        spec.cwd,
        _limits_of(spec.limits),
        user=spec.user,
        group=spec.group,
        umask=spec.umask,
        secret_env=dict(spec.secret_env),
        isolation=_isolation_of(spec.isolation),
        stdin=stdin,
        stdin_data=data,
        terminal=terminal,
        traceparent=trace.parent if trace else "",
        tracestate=trace.state if trace else "",
        worker_labels=dict(spec.worker_labels),
        retry_lost=spec.retry_lost,
    )


def _isolation_of(isolation: m.Isolation | None) -> Isolation:
    if isolation is None:
        return NO_ISOLATION
    return Isolation(**{each.name: getattr(isolation, each.name) for each in fields(Isolation)})


def _limits_of(limits: m.Limits | None) -> Limits:
    if limits is None:
        return Limits()
    return Limits(
        memory=limits.memory_bytes,
        cpus=limits.cpus,
        cpu_weight=limits.cpu_weight,
        processes=limits.processes,
        timeout=limits.timeout.total_seconds(),
        output=limits.output_bytes,
        open_files=limits.open_files,
        core=limits.core_bytes,
        nice=limits.nice,
        io_class=int(limits.io_class),
        stop_at_output=limits.stop_at_output,
    )


def request_id_of(request: m.StartRequest) -> str:
    """The request id, "" for none."""
    text = request.request_id
    if len(text) > MAX_REQUEST_ID or (text and not text.isprintable()):
        raise refuse("request_id", f"has more than {MAX_REQUEST_ID} characters, or some that are not printable")
    return text


def stop_of(request: m.StopRequest, by: str) -> Stop:
    """How the job is to end."""
    signum = request.signal or signal.SIGTERM
    if signum not in signal.valid_signals():
        raise refuse("signal", f"has the value {signum}, which is no signal of Linux")
    if request.mode not in STOP_MODES:
        raise refuse("mode", f"has the value {request.mode:d}, which is no mode of a stop")
    return Stop(by, grace_of(request), signum, STOP_MODES[request.mode])


def waits_for_any(request: m.WaitRequest) -> bool:
    """Whether the end of one job is enough."""
    if request.mode not in WAIT_MODES:
        raise refuse("mode", f"has the value {request.mode:d}, which is no mode of a wait")
    return WAIT_MODES[request.mode]


def grace_of(request: m.StopRequest) -> float | None:
    """Seconds, or None for the default."""
    if request.grace_period is None:
        return None
    seconds = request.grace_period.total_seconds()
    if not 0 <= seconds <= MAX_GRACE:
        raise refuse("grace_period", f"is not between 0 and {MAX_GRACE:g} seconds")
    return seconds


def signal_of(request: m.SignalRequest) -> int:
    """The number of the signal."""
    if request.signal not in signal.valid_signals():
        raise refuse("signal", f"has the value {request.signal}, which is no signal of Linux")
    return request.signal


def start_of(request: m.StreamRequest | m.AttachStart) -> Start:
    """Where to begin."""
    field, value = betterproto.which_one_of(request, "start")
    if isinstance(value, datetime):
        return Start(time=int((value - EPOCH) / timedelta(microseconds=1)) * 1000)
    if value is None:
        return Start()
    if not isinstance(value, int) or value < 0:
        raise refuse(field, "is negative")
    return Start(**{field: value})


def source_of(request: m.StreamRequest) -> Source | None:
    """Which of the two streams, None for both."""
    if request.source == m.OutputSource.UNSPECIFIED:
        return None
    try:
        return Source(request.source)
    except ValueError as exc:
        raise refuse("source", f"has the value {request.source:d}, which is neither stdout nor stderr") from exc


def page_of(request: m.ListRequest) -> tuple[int, int, list[State]]:
    """Where the page starts, its size, and the states asked for (AIP-158: 0 is the default, too large is cut)."""
    if request.page_size < 0:
        raise refuse("page_size", "is negative")
    size = min(request.page_size or DEFAULT_PAGE, MAX_PAGE)
    for state in request.states:
        if state not in FROM_STATE:
            raise refuse("states", f"has the value {state:d}, which is no state of a job")
    return _from_token(request.page_token), size, [FROM_STATE[state] for state in request.states]


def page_token(seq: int) -> str:
    """The token for the page below a sequence number; what is in it is nobody's business."""
    return base64.urlsafe_b64encode(b"1:%d" % seq).decode()


def _from_token(token: str) -> int:
    if not token:
        return 0
    try:
        version, _, seq = base64.b64decode(token, altchars=b"-_", validate=True).partition(b":")
        if version == b"1" and 0 < int(seq) < 2**63:
            return int(seq)
    except (binascii.Error, ValueError):
        pass
    raise refuse("page_token", "was not made by this server; begin again without one")


# ---- out


def abridged_message(job: Job) -> m.Job:
    """A job as answers with many jobs show it: a thousand of them stay far below the limit on messages."""
    message = job_message(job)
    message.stop_receipt = message.usage = None
    if job.spec.size <= ABRIDGED_SPEC:
        return message
    room, argv = ABRIDGED_SPEC, list[str]()
    for word in job.spec.argv:
        argv.append(word[:room])
        room -= len(word)
        if room <= 0:
            break
    message.abridged = True
    message.spec.argv, message.spec.env, message.spec.secret_env, message.spec.cwd = argv, {}, {}, ""
    return message


def job_message(job: Job) -> m.Job:
    """A job as the contract shows it."""
    return new(
        m.Job,
        id=job.id,
        spec=new(
            m.JobSpec,
            argv=list(job.spec.argv),
            name=job.spec.name,
            env=dict(job.spec.env),
            cwd=job.spec.cwd,
            limits=_limits_message(job.spec.limits),
            user=job.spec.user,
            group=job.spec.group,
            umask=job.spec.umask,
            secret_env=dict(job.spec.withheld.secret_env),
            isolation=_isolation_message(job.spec.isolation),
            worker_labels=dict(job.spec.worker_labels),
            retry_lost=job.spec.retry_lost,
            **stdin_fields(job.spec),
        ),
        state=TO_STATE[job.state],
        stopping=job.stopping,
        reason=job.reason,
        message=job.message,
        exit_code=job.exit_code,
        signal=job.signal,
        core_dumped=job.core_dumped,
        pid=job.pid,
        worker=job.worker,
        started_by=job.started_by,
        stopped_by=job.stopped_by,
        created_at=_time(job.created_at),
        started_at=_time(job.started_at),
        ended_at=_time(job.ended_at),
        output_bytes=job.output_bytes,
        dropped_bytes=job.dropped_bytes,
        usage=_usage_message(job.usage, job) if job.usage else None,
        stop_receipt=_receipt_message(job.receipt) if job.receipt else None,
        wait_status=job.wait_status,
        traceparent=job.spec.traceparent,
        attempt=job.attempt,
    )


def _limits_message(limits: Limits) -> m.Limits | None:
    if limits == Limits():
        return None
    return new(
        m.Limits,
        memory_bytes=limits.memory,
        cpus=limits.cpus,
        cpu_weight=limits.cpu_weight,
        processes=limits.processes,
        timeout=timedelta(seconds=limits.timeout),
        output_bytes=limits.output,
        open_files=limits.open_files,
        core_bytes=limits.core,
        nice=limits.nice,
        io_class=m.IoClass(limits.io_class),
        stop_at_output=limits.stop_at_output,
    )


def _isolation_message(isolation: Isolation) -> m.Isolation | None:
    if isolation == NO_ISOLATION:
        return None
    return m.Isolation(**dict.fromkeys(isolation.asked, True))


def _usage_message(usage: Usage, job: Job) -> m.Usage:
    until = (job.ended_at or time_ns()) // 1000  # as the times of the job are shown: the one is the others' difference
    ran = None if job.started_at is None else max(0, until - job.started_at // 1000)
    return new(
        m.Usage,
        cpu_time=None if usage.cpu is None else timedelta(microseconds=usage.cpu // 1000),
        memory_peak_bytes=usage.memory_peak,
        read_bytes=usage.read,
        written_bytes=usage.written,
        processes=usage.processes,
        processes_peak=usage.processes_peak,
        wall_time=None if ran is None else timedelta(microseconds=ran),
    )


def _receipt_message(receipt: Receipt) -> m.StopReceipt:
    return new(
        m.StopReceipt,
        processes=[
            new(
                m.StoppedProcess,
                pid=each.member.pid,
                parent_pid=each.member.parent,
                command=each.member.command,
                left_session=each.member.left_session,
                signal=each.signal or None,
            )
            for each in receipt.processes
        ],
        found=receipt.found,
        took=timedelta(microseconds=receipt.took // 1000),
        empty=receipt.empty,
        proof=receipt.proof,
    )


def _time(nanoseconds: int | None) -> datetime | None:
    if nanoseconds is None:
        return None
    return EPOCH + timedelta(microseconds=nanoseconds // 1000)


def worker_message(view: WorkerView) -> m.Worker:
    """A worker as the contract shows it."""
    shown = [abridged_message(job) for job in view.jobs[:MAX_JOBS_OF_WORKER]]
    held = view.containment
    limits = sorted(LIMITS[name][0] for name in LIMITS if name not in CONTAINED or name in held.limits)
    weaknesses = [*held.weaknesses, *view.means.weaknesses]
    isolation = view.means.available
    return m.Worker(view.name, view.slots, held.name, shown, len(view.jobs), weaknesses, limits, isolation)


def verdict_message(job: Job) -> m.StreamResponse:
    """The last message of a whole stream."""
    return m.StreamResponse(
        verdict=m.Verdict(
            end_offset=job.output_bytes,
            state=TO_STATE[job.state],
            exit_code=job.exit_code,
            signal=job.signal,
            dropped_bytes=job.dropped_bytes,
            reason=job.reason,
            message=job.message,
        )
    )


def heartbeat_message(offset: int, attempt: int) -> m.StreamResponse:
    """A sign of life on a quiet stream, of this run of the job."""
    return m.StreamResponse(heartbeat=m.Heartbeat(offset, attempt))


def event_message(event: Record | Gap) -> WireMessage:
    """The wire form of the message for what a follower gave."""
    if isinstance(event, Gap):
        return encode(m.StreamResponse(gap=m.Gap(event.offset, event.dropped)))
    return output_message(event)


@lru_cache(maxsize=4)
def _seconds(seconds: int) -> bytes:
    """Of a timestamp: the same for all lines of a second."""
    return b"\x08" + varint(seconds)


def output_message(record: Record) -> tuple[Buffer, ...]:
    """``bytes(StreamResponse(output=Output(…)))`` for a record, without building the message, or copying the output.

    This is the one message that is made for every piece of output; a test holds it against betterproto's form.
    """
    seconds, nanos = divmod(record.time, 1_000_000_000)
    time = _seconds(seconds) + (b"\x10" + varint(nanos) if nanos else b"")
    offset = b"\x10" + varint(record.offset) if record.offset else b""
    after = b"%b\x18%c\x22%b%b" % (offset, record.source, varint(len(time)), time)
    size = varint(len(record.data))
    inner = 1 + len(size) + len(record.data) + len(after)
    return (b"\x0a%b\x0a%b" % (varint(inner), size), record.data, after)
