"""A job: what was asked for, what is known of it now, and the cell in which those who wait see it change."""

from __future__ import annotations

import enum
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Final

import trio

from api.errors import FieldViolation
from jobd.worker import lifecycle
from jobd.worker.containment import NO_LIMITS, Limits, Receipt, Usage
from jobd.worker.errors import InvalidSpecError
from jobd.worker.isolation import NO_ISOLATION, Isolation
from jobd.worker.lifecycle import State
from jobd.worker.stdin import MAX_SIDE, MAX_TERM, StdinMode, Terminal

MAX_NAME: Final = 128
MAX_ACCOUNT: Final = 256
"""Characters in the name of a user or group."""
MAX_LABELS: Final = 32
MAX_LABEL: Final = 63
MAX_RETRY_LOST: Final = 10
MAX_UMASK: Final = 0o777
MAX_SPEC: Final = 1024 * 1024
"""Bytes of arguments, environment, directory and given stdin together. Of the first two the kernel takes about 2 MiB,
128 KiB in one piece."""


class Reason(enum.StrEnum):
    """Why a job is in its state, for programs."""

    NONE = ""
    UNCLAIMED = "UNCLAIMED"
    NO_FREE_WORKER = "NO_FREE_WORKER"
    COMMAND_NOT_FOUND = "COMMAND_NOT_FOUND"
    NOT_EXECUTABLE = "NOT_EXECUTABLE"
    CWD_UNUSABLE = "CWD_UNUSABLE"
    USER_UNUSABLE = "USER_UNUSABLE"
    ARGUMENTS_TOO_LONG = "ARGUMENTS_TOO_LONG"
    LAUNCH_REFUSED = "LAUNCH_REFUSED"
    EXITED = "EXITED"
    SIGNALLED = "SIGNALLED"
    STOPPED_BY_REQUEST = "STOPPED_BY_REQUEST"
    WORKER_SHUT_DOWN = "WORKER_SHUT_DOWN"
    TIMED_OUT = "TIMED_OUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    OUTPUT_LIMIT = "OUTPUT_LIMIT"
    CONTAINMENT_FAILED = "CONTAINMENT_FAILED"
    ISOLATION_FAILED = "ISOLATION_FAILED"
    DAEMON_LOST = "DAEMON_LOST"
    LAUNCHER_LOST = "LAUNCHER_LOST"
    REBOOTED = "REBOOTED"
    SUPERVISOR_FAILED = "SUPERVISOR_FAILED"
    RESTORED = "RESTORED"
    UNREACHABLE = "UNREACHABLE"
    FORGOTTEN = "FORGOTTEN"


_NOT_COMPARED: Final = frozenset({"secret_env", "secret_digest", "traceparent", "tracestate"})


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What to run: as in ``jobworker.v1.JobSpec``.

    Attributes:
        user, group: names; "" is the user that this process runs as, and the user's own group.
        secret_env: as ``env``; once it is :attr:`withheld`, the names, with nothing.
        secret_digest: of it (:mod:`jobd.worker.secret`).
        stdin_data: what it reads from stdin, when that is no pipe and no terminal.
        traceparent, tracestate: the trace that it was started in (W3C Trace Context), or "".
        worker_labels: those that the worker has to have.
        retry_lost: how often a pool runs it again when it is lost; only of one that is not :attr:`attachable`.
    """

    argv: tuple[str, ...]
    name: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    limits: Limits = NO_LIMITS
    user: str = ""
    group: str = ""
    umask: int | None = None
    secret_env: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret_digest: str = field(default="", repr=False)
    isolation: Isolation = NO_ISOLATION
    stdin: StdinMode = StdinMode.NONE
    stdin_data: bytes = b""
    terminal: Terminal | None = None
    traceparent: str = ""
    tracestate: str = ""
    worker_labels: Mapping[str, str] = field(default_factory=dict)
    retry_lost: int = 0

    @property
    def withheld(self) -> JobSpec:
        """The same without the values of its secrets."""
        return replace(self, secret_env=dict.fromkeys(self.secret_env, "")) if self.secret_env else self

    @property
    def size(self) -> int:
        """Bytes of arguments, environment, directory and given stdin together."""
        variables = (*self.env.items(), *self.secret_env.items())
        texts = (*self.argv, *(text for variable in variables for text in variable), self.cwd)
        return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) + len(self.stdin_data)

    @property
    def attachable(self) -> bool:
        """Somebody can write to its stdin."""
        return self.stdin is StdinMode.PIPE or self.terminal is not None

    def differences(self, other: JobSpec) -> list[str]:
        """The names of the fields in which they differ. Of secrets, which may be withheld, the names are compared; the
        trace says who asks, and not for what."""
        plain = [each.name for each in fields(self) if each.name not in _NOT_COMPARED]
        differs = [name for name in plain if getattr(self, name) != getattr(other, name)]
        return differs if self.secret_env.keys() == other.secret_env.keys() else [*differs, "secret_env"]

    def check(self) -> None:
        """See that this can be given to the kernel at all.

        Raises:
            InvalidSpecError: with every field that cannot.
        """
        violations = tuple(_violations(self))
        if violations:
            raise InvalidSpecError(violations)


def _violations(spec: JobSpec) -> list[FieldViolation]:
    found: list[tuple[str, str]] = []
    if not spec.argv or not spec.argv[0]:
        found.append(("spec.argv", "is empty; give at least the command"))
    found += [
        (f"spec.argv[{i}]", "has a NUL byte, which no argument can have") for i, a in enumerate(spec.argv) if "\0" in a
    ]
    if len(spec.name) > MAX_NAME or not (spec.name.isprintable() or not spec.name):
        found.append(("spec.name", f"has more than {MAX_NAME} characters, or some that are not printable"))
    for name, variables in (("env", spec.env), ("secret_env", spec.secret_env)):
        for key, value in variables.items():
            if not key or "=" in key or "\0" in key:
                found.append((f"spec.{name}", f"{key!a} cannot be the name of a variable (empty, or with '=' or NUL)"))
            if "\0" in value:
                found.append((f"spec.{name}[{key!a}]", "has a NUL byte, which no variable can have"))
    for key in sorted(spec.env.keys() & spec.secret_env.keys()):
        found.append((f"spec.secret_env[{key!a}]", "is in env too; give it once"))
    if spec.cwd and (not spec.cwd.startswith("/") or "\0" in spec.cwd):
        found.append(("spec.cwd", f"{spec.cwd!a} is not an absolute path"))
    for name, account in (("user", spec.user), ("group", spec.group)):
        if account and (len(account) > MAX_ACCOUNT or not account.isprintable()):
            found.append((f"spec.{name}", f"has more than {MAX_ACCOUNT} characters, or some that are not printable"))
    if spec.umask is not None and not 0 <= spec.umask <= MAX_UMASK:
        found.append(("spec.umask", f"is {spec.umask:#o}, and not between 0 and {MAX_UMASK:#o}"))
    found += _label_violations(spec.worker_labels)
    if not 0 <= spec.retry_lost <= MAX_RETRY_LOST:
        found.append(("spec.retry_lost", f"is {spec.retry_lost}, and not between 0 and {MAX_RETRY_LOST}"))
    found += _limit_violations(spec.limits)
    found += [(f"spec.isolation.{name}", why) for name, why in spec.isolation.contradictions()]
    found += _stdin_violations(spec)
    if spec.size > MAX_SPEC:
        found.append(("spec", f"has {spec.size} bytes, and may have {MAX_SPEC}; pass large input in a file"))
    return [FieldViolation(*each) for each in found]


def _label_violations(labels: Mapping[str, str]) -> list[tuple[str, str]]:
    if len(labels) > MAX_LABELS:
        return [("spec.worker_labels", f"has {len(labels)} labels, and may have {MAX_LABELS}")]
    return [
        ("spec.worker_labels", f"{f'{name}={value}'!a}: {why}")
        for name, value in labels.items()
        if (why := wrong_with_label(name, value))
    ]


def wrong_with_label(name: str, value: str) -> str:
    """Why this cannot be a worker's label; "" when it can."""
    if not name or any(len(each) > MAX_LABEL or not each.isprintable() for each in (name, value)):
        return f"a label's name has 1 to {MAX_LABEL} printable characters, and its value at most as many"
    return "a label's name has neither '=' nor ','" if set(name) & {"=", ","} else ""


def _stdin_violations(spec: JobSpec) -> list[tuple[str, str]]:
    found = []
    if spec.stdin_data and spec.attachable:
        found.append(("spec.stdin_data", "is given, and stdin is a pipe or a terminal; a job has one of them"))
    if spec.retry_lost and spec.attachable:
        why = "is given, and stdin is a pipe or a terminal: what a lost run was given, nobody gives the next one"
        found.append(("spec.retry_lost", why))
    terminal = spec.terminal
    if terminal is None:
        return found
    for side, count in (("rows", terminal.rows), ("columns", terminal.columns)):
        if not 1 <= count <= MAX_SIDE:
            found.append((f"spec.terminal.{side}", f"is {count}, and not between 1 and {MAX_SIDE}"))
    if len(terminal.term) > MAX_TERM or not (terminal.term.isascii() and terminal.term.isprintable()):
        found.append(
            ("spec.terminal.term", f"has more than {MAX_TERM} characters, or some that are not printable ASCII")
        )
    return found


LIMITS: Final[dict[str, tuple[str, float, float]]] = {
    "memory": ("memory_bytes", 4096, 2**62),
    "cpus": ("cpus", 0.01, 10_000),
    "cpu_weight": ("cpu_weight", 1, 10_000),
    "processes": ("processes", 1, 2**22),
    "timeout": ("timeout", 0.001, 10 * 366 * 86400),
    "output": ("output_bytes", 1, 2**62),
    "open_files": ("open_files", 3, 2**20),
    "core": ("core_bytes", 1, 2**62),
    "nice": ("nice", 0, 19),
    "io_class": ("io_class", 1, 2),
    "stop_at_output": ("stop_at_output", 1, 1),
}
"""Each limit's name in the contract, and what it can be; 0 is no limit of its own."""


def _limit_violations(limits: Limits) -> list[tuple[str, str]]:
    if limits == NO_LIMITS:
        return []
    return [
        (f"spec.limits.{field_}", f"is {getattr(limits, name):g}, and not between {lowest:g} and {highest:g}")
        for name, (field_, lowest, highest) in LIMITS.items()
        if getattr(limits, name) and not lowest <= getattr(limits, name) <= highest
    ]


@dataclass(frozen=True)
class Job:
    """All that is known of a job at one moment. (Without slots: one of many fields is changed quickly.)

    Attributes:
        launcher: which launcher made, or was to make, the process.
        attempt: how often it was run again, in a pool, after it was lost.
        stop_asked_at, stop_grace: when the end was asked for (the sooner one, if more than once), and the seconds
            from then to SIGKILL.
        stop_signal, stop_mode: the polite signal, and who got it.
        signals: those that were sent on request, each once, with the last one who asked.
        wait_status: as waitpid(2) gave it, kept verbatim; None while the process runs, or if it never did.
        created_at, started_at, ended_at: nanoseconds since the epoch.
        output_bytes: recorded bytes of both streams; known when the job has ended (while it runs, ask its output).
        dropped_bytes: bytes that were read from the job and could not be recorded.
        usage: what it has used; known when it has ended (while it runs, ask its supervisor).
        receipt: what a stop found and ended; while it goes on, what it has found so far.
    """

    id: str
    spec: JobSpec
    state: State
    created_at: int
    started_by: str = ""
    request_id: str = ""
    worker: str = ""
    launcher: str = ""
    stopping: bool = False
    stopped_by: str = ""
    stop_asked_at: int | None = None
    stop_grace: float = 0.0
    stop_signal: int = int(signal.SIGTERM)  # compared as it is read back
    stop_mode: str = "group"
    signals: tuple[tuple[int, str], ...] = ()
    reason: str = ""
    message: str = ""
    pid: int = 0
    wait_status: int | None = None
    started_at: int | None = None
    ended_at: int | None = None
    output_bytes: int = 0
    dropped_bytes: int = 0
    usage: Usage | None = None
    receipt: Receipt | None = None
    attempt: int = 0

    @property
    def runs_again(self) -> bool:
        """It is lost, and a pool runs it again: there, this is not its end."""
        return self.state is State.LOST and self.attempt < self.spec.retry_lost

    @property
    def exit_code(self) -> int | None:
        """The code that the process exited with, if it exited."""
        status = self.wait_status
        return os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None

    @property
    def signal(self) -> int | None:
        """The signal that ended the process, if one did."""
        status = self.wait_status
        return os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None

    @property
    def core_dumped(self) -> bool:
        """The end came with a core dump."""
        status = self.wait_status
        return status is not None and os.WIFSIGNALED(status) and os.WCOREDUMP(status)

    def moved(self, event: lifecycle.Event, **changes: object) -> Job:
        """This job after ``event``, with further changes. One that waits no more for its process has no secrets.

        Raises:
            InvalidTransitionError: as :func:`jobd.worker.lifecycle.after`.
        """
        state = lifecycle.after(self.state, event)
        spec = self.spec if state in (State.PENDING, State.STARTING) else self.spec.withheld
        assert changes.keys() <= self.__dict__.keys(), changes.keys()
        moved = object.__new__(Job)
        moved.__dict__.update(self.__dict__, state=state, spec=spec, **changes)
        return moved


@dataclass(frozen=True, slots=True)
class Ended:
    """As much of a job that has ended as it takes to decide whether to keep it."""

    id: str
    ended_at: int
    output_bytes: int


class JobCell:
    """The place where a live job's present state is seen and waited for.

    Attributes:
        recorded: False when the job has ended, and its end could not be recorded.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self.recorded = True
        self._changed = trio.Event()
        self._when_ended: list[Callable[[], None]] = []

    @property
    def job(self) -> Job:
        return self._job

    def set(self, job: Job) -> None:
        """Publish a new state to all who wait."""
        self._job = job
        self._changed.set()
        self._changed = trio.Event()
        if job.state.terminal:
            called, self._when_ended = self._when_ended, []
            for call in called:
                call()

    def when_ended(self, call: Callable[[], None]) -> None:
        """Have this called when the end is published, in the same step; now, if it was."""
        if self._job.state.terminal:
            call()
        else:
            self._when_ended.append(call)

    async def wait_until(self, condition: Callable[[Job], bool]) -> Job:
        """Return the first job, from now on, for which the condition holds."""
        while not condition(self._job):
            await self._changed.wait()
        return self._job

    async def ended(self) -> Job:
        """Wait for the end."""
        return await self.wait_until(lambda job: job.state.terminal)
