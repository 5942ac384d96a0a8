"""Whether an audit log is whole: every line of it vouched for by the next."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, cast

from jobd.audit.chain import FIRST, LOST, MAX_LINE, OPENED, Head, read, sum_of

NO_LINE: Final = "it is no line, and the next one does not say that it was cut"


@dataclass
class Verdict:
    """What was found.

    Attributes:
        lines: how many there are.
        begins: it begins with the first line that there ever was; else what is before it was not looked at.
        number, sum: of the last line.
        first, last: the time of the first line, and of the last.
        problems: where the chain is broken, and what it says itself that it lacks.
        notes: what is no fault of anybody's.
        sums: those of all lines that were asked about.
    """

    lines: int = 0
    begins: bool = False
    number: int = 0
    sum: str = ""
    first: str = ""
    last: str = ""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    found: bool = False


def verify(files: Sequence[Path], wanted: str = "") -> Verdict:
    """Look at files, the oldest first. Those whose name ends in .gz are unpacked.

    Args:
        wanted: the sum of a line that is to be among them.

    Raises:
        OSError: one cannot be read.
    """
    verdict = Verdict()
    torn: _Torn | None = None
    for where, line in _lines(files):
        sum_, said = sum_of(line), read(line)
        if said is None:
            before = torn.head if torn else Head(verdict.number, verdict.sum or FIRST)
            torn = _Torn(torn.where if torn else where, before.after_piece(line), torn.count + 1 if torn else 1)
            continue
        opened = said.get("event") == OPENED
        if torn and opened and where.endswith(":1") and said["prev"] == verdict.sum:
            verdict.notes.append(f"{torn.where}: the line was cut by a kill, and rotated away before the next came")
            torn = None
        _judge(verdict, where, said, torn)
        torn = None
        verdict.number, verdict.sum = said["seq"], sum_
        verdict.found = verdict.found or sum_ == wanted
    if torn:
        verdict.notes.append(f"{torn.where}: the last line is not whole: a kill, or it is being written now")
    if wanted and not verdict.found:
        verdict.problems.append(f"no line has the sum {wanted}")
    return verdict


@dataclass(frozen=True, slots=True)
class _Torn:
    """Where pieces are that the next line has to vouch for, how far the chain is after them, and how many there are."""

    where: str
    head: Head
    count: int


def _lines(files: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    """Each line, and where it is."""
    for path in files:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            number = 0
            while line := cast(IO[bytes], file).readline(MAX_LINE + 1):
                number += 1
                yield f"{path}:{number}", line.removesuffix(b"\n")


def _judge(verdict: Verdict, where: str, said: dict[str, Any], torn: _Torn | None) -> None:
    prev, number, opened = said["prev"], said["seq"], said.get("event") == OPENED
    missing = _count(said, "lacks") if opened else 0
    expected = torn.head if torn else Head(verdict.number, verdict.sum or FIRST)
    if torn and not (opened and _count(said, "torn") == torn.count):
        verdict.problems.append(f"{torn.where}: {NO_LINE}")
    if not verdict.lines:
        verdict.begins = prev == expected.sum
        verdict.first = _text(said, "time")
    else:
        if prev != expected.sum:
            verdict.problems.append(f"{where}: the line before it is not the one that was there when it was written")
        if number != expected.number + 1 + missing:
            verdict.problems.append(f"{where}: it is line {number} of the log, after line {verdict.number}")
    if missing:
        verdict.problems.append(f"{where}: {missing} lines before it were cut off while no jobd ran")
    if opened and said.get("changed"):
        verdict.problems.append(f"{where}: a line before it was changed while no jobd ran")
    if said.get("event") == LOST:
        lost = _count(said, "lines")
        verdict.problems.append(f"{where}: {lost} lines before it were lost, since the disk took none")
    if torn and opened:
        verdict.notes.append(f"{torn.where}: the line was cut by a kill")
    verdict.lines += 1
    verdict.last = _text(said, "time")


def _count(said: dict[str, Any], name: str) -> int:
    """What a line says; somebody may have made it."""
    found = said.get(name)
    return found if isinstance(found, int) else 0


def _text(said: dict[str, Any], name: str) -> str:
    """The same, as it may be shown on a terminal."""
    text = str(said.get(name))
    return text if text.isascii() and text.isprintable() else ascii(text)
