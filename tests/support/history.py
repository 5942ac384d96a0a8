"""What was done to a pool and what was seen of it, and what of that cannot be: a checker in the manner of Jepsen.

Whoever runs a chaos writes down each operation when it begins and when it is answered, with a clock that all share, and
what a mark outside of the pool (a file that a job makes) says of each process. The checker knows only that, and what is
promised; of the pool itself it knows nothing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

UNKNOWN = "unknown"
"""What a client knows that was not answered: it may have been done, or be done still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """A Start.

    Attributes:
        began, ended: when it was sent, and answered (or given up).
        request: its request_id; it may be sent many times.
        job: the id that was answered; "" for an error that says that there is no job, UNKNOWN for no answer.
        retries: how often the job may be run again when it is lost.
    """

    began: float
    ended: float
    request: str
    job: str
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a process of a job has left outside: that it began, and how it ended.

    Attributes:
        what: "began", or how it ended, as in :class:`Seen`.
        request: of the job, which is in its environment.
        machine: "" when that is not known: its launcher was dead already.
    """

    at: float
    request: str
    what: str
    machine: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """A Stop.

    Attributes:
        answer: the job's state then; UNKNOWN for no answer.
    """

    began: float
    ended: float
    job: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A job as a broker showed it.

    Attributes:
        state: of the lifecycle, or "unreachable", or "missing" when there is no such job.
        outcome: what the process's own end was ("exit 3", "signal 9"); "" when there is none.
        final: seen after everybody had come back.
    """

    at: float
    job: str
    state: str
    outcome: str = ""
    final: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A job's output, read whole, up to its verdict.

    Attributes:
        digest: of the bytes; ``expected`` is that of what the job wrote.
        dropped: bytes that the verdict says are missing.
    """

    at: float
    job: str
    digest: str
    expected: str
    dropped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Something that may lose the jobs of a machine: its reboot, the death of its launcher, an operator's forget.

    Attributes:
        job: the one that was forgotten; "" for all of the machine.
    """

    at: float
    machine: str = ""
    job: str = ""


Operation = Submit | Mark | Stop | Seen | Stream | Lost
KINDS = {kind.__name__: kind for kind in (Submit, Mark, Stop, Seen, Stream, Lost)}
ENDED = frozenset({"succeeded", "failed", "killed", "stopped", "timed_out", "out_of_memory", "output_limit"})
NEVER_RAN = frozenset({"stopped", "start_failed", "lost"})
"""States in which a job that never ran can be at the end."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """Something that cannot be.

    Attributes:
        about: the request, or the job.
    """

    about: str
    what: str


def write(path: Path, operations: Iterable[Operation]) -> None:
    """Add operations to a file, one a line."""
    with path.open("a") as file:
        for each in operations:
            file.write(json.dumps({"kind": type(each).__name__, **asdict(each)}) + "\n")


def read(path: Path) -> list[Operation]:
    """What :func:`write` has written.

    Raises:
        ValueError: it is something else; a history that cannot be read proves nothing.
    """
    found: list[Operation] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            facts = json.loads(line)
            found.append(KINDS[facts.pop("kind")](**facts))
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ValueError(f"line {number} of the history is no operation: {exc}") from exc
    return found


def check(operations: Iterable[Operation]) -> list[Wrong]:
    """All that cannot be."""
    history = _History(operations)
    found = [*history.requests(), *history.jobs(), *history.streams()]
    return sorted(set(found), key=lambda wrong: (wrong.about, wrong.what))


class _History:
    def __init__(self, operations: Iterable[Operation]) -> None:
        self.submits: dict[str, list[Submit]] = defaultdict(list)
        self.marks: dict[str, list[Mark]] = defaultdict(list)
        self.seen: dict[str, list[Seen]] = defaultdict(list)
        self.stops: dict[str, list[Stop]] = defaultdict(list)
        self.read: dict[str, list[Stream]] = defaultdict(list)
        self.lost: list[Lost] = []
        for each in operations:
            match each:
                case Submit():
                    self.submits[each.request].append(each)
                case Mark():
                    self.marks[each.request].append(each)
                case Seen():
                    self.seen[each.job].append(each)
                case Stop():
                    self.stops[each.job].append(each)
                case Stream():
                    self.read[each.job].append(each)
                case Lost():
                    self.lost.append(each)
        self.request_of = {each.job: name for name, sent in self.submits.items() for each in sent if _is_job(each.job)}

    def requests(self) -> Iterator[Wrong]:
        """What clients asked for, and what became of it."""
        for request, sent in self.submits.items():
            jobs = {each.job for each in sent if _is_job(each.job)}
            if len(jobs) > 1:
                yield Wrong(request, f"one request is {len(jobs)} jobs")
            refused = all(each.job == "" for each in sent)
            if refused and self._began(request):
                yield Wrong(request, "ran, though every Start was refused")
            for job in jobs:
                if not any(each.final for each in self.seen[job]):
                    yield Wrong(job, "was acknowledged, and nobody has looked for it in the end")
        for request in self.marks:
            if request not in self.submits:
                yield Wrong(request, "ran, and nobody asked for it")
            allowed = 1 + max((each.retries for each in self.submits.get(request, ())), default=0)
            if len(self._began(request)) > allowed:
                yield Wrong(request, f"was started {len(self._began(request))} times")
            if len(self._ends(request)) > len(self._began(request)):
                yield Wrong(request, "ended without a beginning")

    def jobs(self) -> Iterator[Wrong]:
        """What was shown of each job."""
        for job, seen in self.seen.items():
            request = self.request_of.get(job)
            if request is None:
                if any(each.state != "missing" for each in seen) and not self._in_doubt():
                    yield Wrong(job, "is there, and nobody asked for it")
                continue
            yield from self._never_goes_back(job, sorted(seen, key=lambda each: each.at))
            for each in seen:
                yield from self._is_true(each, request)
        for job, stops in self.stops.items():
            yield from self._stopped(job, stops)

    def _never_goes_back(self, job: str, seen: list[Seen]) -> Iterator[Wrong]:
        end = next((each for each in seen if each.state in ENDED | NEVER_RAN), None)
        for each in seen:
            # Its worker may have told of the end a moment before the pool had it, and died in that moment. Until it is
            # back nobody else knows; that is no other end.
            if each.state == "unreachable":
                continue
            if end and each.at > end.at and (each.state, each.outcome) != (end.state, end.outcome):
                yield Wrong(job, f"was {_words(end)}, and then {_words(each)}")

    def _is_true(self, seen: Seen, request: str) -> Iterator[Wrong]:
        began, ends = self._began(request), {each.what for each in self._ends(request)}
        if seen.state == "missing":
            yield Wrong(seen.job, "was acknowledged, and is not there")
        elif seen.state == "lost" and not self._may_be_lost(seen.job, request, seen.at):
            yield Wrong(seen.job, "is lost, and nothing has happened that could lose it")
        elif seen.state in ENDED - NEVER_RAN and not began:
            yield Wrong(seen.job, f"is {seen.state}, and never ran")
        elif seen.state in ENDED and seen.outcome and ends and seen.outcome not in ends:
            yield Wrong(
                seen.job, f"is said to have ended with {seen.outcome}, and ended with {', '.join(sorted(ends))}"
            )
        elif seen.state in ENDED and seen.outcome.startswith("exit") and not ends:
            yield Wrong(seen.job, f"is said to have ended with {seen.outcome}, and has not ended")
        elif seen.state == "stopped" and not self.stops[seen.job]:
            yield Wrong(seen.job, "is stopped, and nobody wanted that")
        elif seen.final and seen.state not in ENDED | NEVER_RAN:
            yield Wrong(seen.job, f"is {seen.state}, though everybody has come back")

    def _stopped(self, job: str, stops: list[Stop]) -> Iterator[Wrong]:
        request = self.request_of.get(job, "")
        for stop in stops:
            if stop.answer not in ENDED:
                continue
            later = [each for each in self._began(request) if each.at > stop.ended]
            if later:
                yield Wrong(job, f"was started after a Stop was answered with {stop.answer}")
            final = [each for each in self.seen[job] if each.final and each.state != stop.answer]
            if final:
                yield Wrong(job, f"was {stop.answer} to who stopped it, and is {final[0].state}")

    def streams(self) -> Iterator[Wrong]:
        """What was read of each job."""
        for job, read in self.read.items():
            for each in read:
                if each.digest != each.expected and not each.dropped:
                    yield Wrong(job, "has other output than it wrote, and says nothing of it")

    def _began(self, request: str) -> list[Mark]:
        return [each for each in self.marks.get(request, ()) if each.what == "began"]

    def _ends(self, request: str) -> list[Mark]:
        return [each for each in self.marks.get(request, ()) if each.what != "began"]

    def _may_be_lost(self, job: str, request: str, before: float) -> bool:
        machines = {each.machine for each in self._began(request)}
        any_ = not machines or "" in machines
        return any(
            each.at <= before and (each.job == job or (not each.job and (any_ or each.machine in machines)))
            for each in self.lost
        )

    def _in_doubt(self) -> bool:
        return any(each.job == UNKNOWN for sent in self.submits.values() for each in sent)


def _words(seen: Seen) -> str:
    return f"{seen.state} ({seen.outcome})" if seen.outcome else seen.state


def _is_job(job: str) -> bool:
    return job not in ("", UNKNOWN)
