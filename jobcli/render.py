"""The one module that prints: facts as text or JSON, output as bytes, errors as one sentence.

What comes from a server or a job and is printed as a fact is escaped: no name or argument can move the cursor.
Output is not: bytes are bytes.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from api.messages import IoClass, Job, JobState, Output, OutputSource, StdinMode, Verdict, Worker, WorkerStanding
from api.output import Piece
from jobcli.writing import STDERR, STDOUT, write, write_at_once


def error(message: str) -> None:
    """Say what went wrong, in one line on stderr."""
    print(f"jobcli: {_safe(message)}", file=sys.stderr)


def note(message: str) -> None:
    """Say something to the person at the terminal that is not the answer."""
    print(f"jobcli: {_safe(message)}", file=sys.stderr, flush=True)


def line(text: str) -> None:
    """Print one line of an answer."""
    print(_safe(text), flush=True)


def as_json(facts: dict[str, Any]) -> None:
    """Print facts as one line of JSON."""
    print(json.dumps(facts), flush=True)


# ---- facts


def job_facts(job: Job) -> dict[str, Any]:
    """A job as ``--json`` shows it. Times are RFC 3339 in UTC; what is not known (yet) is null."""
    return {
        "id": job.id,
        "name": job.spec.name,
        "argv": job.spec.argv,
        "env": job.spec.env,
        "secret_env": sorted(job.spec.secret_env),
        "cwd": job.spec.cwd,
        "user": job.spec.user or None,
        "group": job.spec.group or None,
        "umask": None if job.spec.umask is None else f"{job.spec.umask:03o}",
        "state": state_name(job.state),
        "stopping": job.stopping,
        "reason": job.reason,
        "message": job.message,
        "exit_code": job.exit_code,
        "signal": job.signal,
        "core_dumped": job.core_dumped,
        "wait_status": job.wait_status,
        "pid": job.pid or None,
        "worker": job.worker or None,
        "started_by": job.started_by,
        "traceparent": job.traceparent or None,
        "stopped_by": job.stopped_by or None,
        "created_at": _time(job.created_at),
        "started_at": _time(job.started_at),
        "ended_at": _time(job.ended_at),
        "output_bytes": job.output_bytes,
        "dropped_bytes": job.dropped_bytes,
        "stdin": _stdin(job),
        "terminal": _terminal(job),
        "limits": _limits(job),
        "isolation": _isolation(job),
        "worker_labels": job.spec.worker_labels or None,
        "retry_lost": job.spec.retry_lost or None,
        "attempt": job.attempt or None,
        "usage": _usage(job),
        "stop_receipt": _receipt(job),
    }


def _limits(job_: Job) -> dict[str, Any] | None:
    """The limits that hold, by their names in the contract; a time in seconds."""
    limits = job_.spec.limits
    if limits is None:
        return None
    facts = {
        "memory_bytes": limits.memory_bytes,
        "cpus": limits.cpus,
        "cpu_weight": limits.cpu_weight,
        "processes": limits.processes,
        "timeout": limits.timeout.total_seconds(),
        "output_bytes": limits.output_bytes,
        "open_files": limits.open_files,
        "core_bytes": limits.core_bytes,
        "nice": limits.nice,
        "io_class": _io_class(limits.io_class),
        "stop_at_output": limits.stop_at_output,
    }
    return {name: value for name, value in facts.items() if value}


def _io_class(number: int) -> str | int:
    """As it is given on the command line; "" for none, and one that this version does not know by its number."""
    names = {IoClass.UNSPECIFIED: "", IoClass.IDLE: "idle", IoClass.BEST_EFFORT: "best-effort"}
    return names.get(IoClass.try_value(number), number)


def _isolation(job_: Job) -> list[str] | None:
    """The names, in the contract, of what keeps it from the machine."""
    isolation = job_.spec.isolation
    return None if isolation is None else [each.name for each in fields(isolation) if getattr(isolation, each.name)]


def _stdin(job_: Job) -> str | None:
    """Where its stdin comes from, when that is not /dev/null."""
    if job_.spec.stdin == StdinMode.PIPE:
        return "pipe"
    return f"{job_.spec.stdin_data_bytes} bytes" if job_.spec.stdin_data_bytes else None


def _terminal(job_: Job) -> dict[str, Any] | None:
    terminal = job_.spec.terminal
    if terminal is None:
        return None
    return {"rows": terminal.rows, "columns": terminal.columns, "term": terminal.term}


def _usage(job_: Job) -> dict[str, Any] | None:
    usage = job_.usage
    if usage is None:
        return None
    facts = {
        "cpu_seconds": usage.cpu_time.total_seconds() if usage.cpu_time is not None else None,
        "memory_peak_bytes": usage.memory_peak_bytes,
        "read_bytes": usage.read_bytes,
        "written_bytes": usage.written_bytes,
        "processes": usage.processes,
        "processes_peak": usage.processes_peak,
        "wall_seconds": usage.wall_time.total_seconds() if usage.wall_time is not None else None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _receipt(job_: Job) -> dict[str, Any] | None:
    receipt = job_.stop_receipt
    if receipt is None:
        return None
    return {
        "found": receipt.found,
        "seconds": receipt.took.total_seconds(),
        "empty": receipt.empty,
        "proof": receipt.proof,
        "processes": [
            {
                "pid": each.pid,
                "parent_pid": each.parent_pid,
                "command": each.command,
                "left_session": each.left_session,
                "signal": each.signal,
            }
            for each in receipt.processes
        ],
    }


def receipt(job_: Job) -> None:
    """Print what a stop found and ended, a line for all and a line for each process."""
    receipt_ = job_.stop_receipt
    if receipt_ is None:
        return
    left = f"nothing is left ({receipt_.proof})" if receipt_.empty else f"SOME ARE LEFT ({receipt_.proof})"
    processes = "1 process" if receipt_.found == 1 else f"{receipt_.found} processes"
    line(f"  {processes} in {receipt_.took.total_seconds():.3f} s; {left}")
    for each in receipt_.processes:
        unsent = "ended by itself" if receipt_.empty else "is still there"
        how = unsent if each.signal is None else f"ended after {_signal(each.signal)}"
        escaped = ", had left the session" if each.left_session else ""
        line(f"  {each.pid:>8}  {each.command:15}  {how}{escaped}")
    if receipt_.found > len(receipt_.processes):
        line(f"  … and {receipt_.found - len(receipt_.processes)} more")


def verdict_facts(verdict: Verdict) -> dict[str, Any]:
    """A verdict as ``--json`` shows it."""
    return {
        "end_offset": verdict.end_offset,
        "state": state_name(verdict.state),
        "exit_code": verdict.exit_code,
        "signal": verdict.signal,
        "dropped_bytes": verdict.dropped_bytes,
        "reason": verdict.reason,
        "message": verdict.message,
    }


def worker_facts(worker: Worker) -> dict[str, Any]:
    """A worker as ``--json`` shows it."""
    return {
        "name": worker.name,
        "slots": worker.slots,
        "running": worker.running,
        "containment": worker.containment,
        "weaknesses": worker.weaknesses,
        "limits": worker.limits,
        "isolation": worker.isolation,
        "address": worker.address,
        "labels": worker.labels,
        "version": worker.version,
        "standing": standing_name(worker.standing),
        "jobs": [job_facts(job) for job in worker.jobs],
    }


def standing_name(standing: int) -> str:
    """Whether a worker is there, in the words of the command line."""
    if standing == WorkerStanding.UNSPECIFIED:
        return "up"
    name = WorkerStanding(standing).name if standing in WorkerStanding.__members__.values() else None
    return name.lower() if name else f"standing {standing}"


def state_name(state: int) -> str:
    """A state in the words of the command line; one that this version does not know by its number."""
    name = JobState(state).name if state in JobState.__members__.values() else None
    return name.lower() if name else f"state {state}"


def job(job_: Job) -> None:
    """Print all that is known of a job, a fact a line."""
    facts = job_facts(job_)
    facts["argv"] = shlex.join(job_.spec.argv)
    facts["env"] = " ".join(f"{key}={shlex.quote(value)}" for key, value in job_.spec.env.items())
    facts["secret_env"] = " ".join(facts["secret_env"])
    if job_.signal is not None:
        facts["signal"] = f"{job_.signal} ({_signal(job_.signal)})"
    for key in ("limits", "usage", "terminal"):
        if facts[key]:
            facts[key] = ", ".join(f"{name} {value}" for name, value in facts[key].items())
    facts["isolation"] = ", ".join(facts["isolation"] or ())
    facts["worker_labels"] = ", ".join(f"{key}={value}" for key, value in (facts["worker_labels"] or {}).items())
    del facts["stop_receipt"]
    for key, value in facts.items():
        if value is not None and value is not False and value != "":
            line(f"{key + ':':15}{value}")
    receipt(job_)


def jobs(list_: Iterable[Job]) -> None:
    """Print jobs as a table."""
    rows = [("ID", "STATE", "EXIT", "NAME", "WORKER", "BY", "CREATED", "OUTPUT", "COMMAND")]
    rows += [
        (
            job_.id[:8],
            state_name(job_.state) + (" (stopping)" if job_.stopping else ""),
            _exit(job_),
            job_.spec.name,
            job_.worker,
            job_.started_by,
            _time(job_.created_at) or "",
            str(job_.output_bytes),
            shlex.join(job_.spec.argv),
        )
        for job_ in list_
    ]
    table(rows)


def workers(list_: Sequence[Worker], pending: int) -> None:
    """Print workers, what each is running, and how many jobs wait; of a pool's, also whether and where they are."""
    pool = any(worker.address for worker in list_)
    rows = [("WORKER", *(("STANDING", "ADDRESS", "LABELS") if pool else ()), "RUNNING", "SLOTS", "CONTAINMENT", "JOBS")]
    for worker in list_:
        running = ", ".join(f"{j.spec.name or j.id[:8]} ({j.output_bytes} B)" for j in worker.jobs)
        labels = ",".join(f"{key}={value}" for key, value in worker.labels.items())
        of_pool = (standing_name(worker.standing), worker.address, labels) if pool else ()
        rows.append((worker.name, *of_pool, str(worker.running), str(worker.slots), worker.containment, running))
    table(rows)
    line(f"{pending} pending")
    for worker in list_:
        for weakness in worker.weaknesses:
            line(f"{worker.name}: {weakness}")


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows with aligned columns; the last column is as wide as it is."""
    safe = [[_safe(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*safe, strict=True)]
    for row in safe:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)


def _exit(job_: Job) -> str:
    if job_.exit_code is not None:
        return str(job_.exit_code)
    return _signal(job_.signal) if job_.signal is not None else ""


def _signal(number: int) -> str:
    return signal.Signals(number).name if number in signal.valid_signals() else f"signal {number}"


def _time(moment: datetime | None) -> str | None:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if moment else None


def _safe(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


# ---- output


async def output(piece: Piece) -> None:
    """Write a piece of output where the job wrote it."""
    await write(_where(piece), piece.data)


def output_at_once(piece: Piece) -> bool:
    """As :func:`output`, without waiting. False: it was not written."""
    return write_at_once(_where(piece), piece.data)


def _where(piece: Piece) -> int:
    return STDERR if piece.source == OutputSource.STDERR else STDOUT


class Prefixed:
    """Writes several jobs' output line by line, each with the name of its job in front.

    A line is written when it is whole, so lines of several jobs never mix; what is left at a job's end is ended.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._width = max(map(len, map(_safe, names)))
        self._rest: dict[tuple[str, int], bytes] = {}

    async def output(self, name: str, chunk: Output) -> None:
        """Write the lines that this piece makes whole."""
        fd = STDERR if chunk.source == OutputSource.STDERR else STDOUT
        *lines, rest = (self._rest.pop((name, fd), b"") + chunk.data).split(b"\n")
        self._rest[name, fd] = rest
        await self._write(fd, name, lines)

    async def end(self, name: str) -> None:
        """Write the unterminated last lines of a job."""
        for fd in (STDOUT, STDERR):
            rest = self._rest.pop((name, fd), b"")
            if rest:
                await self._write(fd, name, [rest])

    async def _write(self, fd: int, name: str, lines: Sequence[bytes]) -> None:
        front = f"{_safe(name):{self._width}} | ".encode()
        if lines:
            await write(fd, [b"".join(front + each + b"\n" for each in lines)])
