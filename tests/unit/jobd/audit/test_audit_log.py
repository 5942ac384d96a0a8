"""The audit log as a file: how it goes on, whatever became of it meanwhile; and what its check makes of that."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.typing import EventDict

from api.errors import ConfigError
from jobd.audit import cli
from jobd.audit import log as audit_log
from jobd.audit.chain import FIRST, Head, sum_of
from jobd.audit.log import AuditLog, open_audit_log
from jobd.audit.verify import Verdict, verify
from tests.support.patience import patient

NOT_WHOLE = "is not whole"
FACTS = {"event": "call", "principal": "alice", "method": "/x/Y"}


@asynccontextmanager
async def opened(tmp_path: Path) -> AsyncIterator[AuditLog]:
    with trio.fail_after(patient(20)):
        async with open_audit_log(tmp_path / "audit.jsonl", tmp_path / "memory") as log:
            yield log


async def written(log: AuditLog, count: int) -> None:
    while log.written < count:
        await trio.sleep(0.001)


async def session(tmp_path: Path, calls: int = 3) -> None:
    """A server that was here for a while."""
    async with opened(tmp_path) as log:
        for _ in range(calls):
            log.put(FACTS)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def whole(*files: Path) -> Verdict:
    found = verify(files)
    assert found.problems == []
    return found


async def test_each_line_vouches_for_the_one_before(tmp_path: Path) -> None:
    """By its sum, and its number; the first has nothing before it. Nobody else may read them."""
    await session(tmp_path)
    path = tmp_path / "audit.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found, raw = lines(path), path.read_bytes().splitlines()
    assert [line["event"] for line in found] == ["opened", "call", "call", "call"]
    assert [line["seq"] for line in found] == [1, 2, 3, 4]
    assert [line["prev"] for line in found] == [FIRST, *map(sum_of, raw[:-1])]
    assert found[1]["principal"] == "alice"
    verdict = whole(path)
    assert (verdict.lines, verdict.begins, verdict.number, verdict.sum) == (4, True, 4, sum_of(raw[-1]))


async def test_the_next_server_goes_on(tmp_path: Path) -> None:
    """In the same chain."""
    for _ in range(3):
        await session(tmp_path)
    assert whole(tmp_path / "audit.jsonl").lines == 12


@pytest.mark.parametrize("cut", [1, 10, 100_000], ids=lambda cut: f"{cut} bytes less")
@pytest.mark.parametrize("calls", [0, 3], ids=["the first line", "a later one"])
async def test_a_line_that_a_kill_has_cut_stays_and_is_vouched_for(tmp_path: Path, cut: int, calls: int) -> None:
    """As the piece that it is: what is there is only ever appended to."""
    await session(tmp_path, calls)
    path = tmp_path / "audit.jsonl"
    data = path.read_bytes()
    begins = data.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(piece := data[: max(begins + 1, len(data) - cut)])
    (tmp_path / "memory").unlink()  # it is written after the line
    torn = cut > 1  # else all of it is there but its newline
    assert [note.split(":")[2] for note in verify([path]).notes] == [f" the last line {NOT_WHOLE}"] * torn
    await session(tmp_path)
    assert path.read_bytes().startswith(piece + b"\n")
    assert [note.split(":")[2] for note in whole(path).notes] == [" the line was cut by a kill"] * torn
    await session(tmp_path)
    whole(path)


async def test_a_piece_that_is_rotated_away_while_nobody_is_here_is_nobody_s_fault(tmp_path: Path) -> None:
    """What goes on vouches for the line before it."""
    await session(tmp_path)
    path, old = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    path.write_bytes(path.read_bytes() + b'{"seq":5,')
    path.rename(old)
    await session(tmp_path)
    assert "rotated away" in whole(old, path).notes[0]


async def test_a_kill_between_a_piece_and_the_line_after_it(tmp_path: Path) -> None:
    """The next server vouches for it all the same."""
    await session(tmp_path)
    path = tmp_path / "audit.jsonl"
    path.write_bytes(path.read_bytes()[:-5] + b"\n")
    (tmp_path / "memory").unlink()
    await session(tmp_path)
    assert "was cut by a kill" in whole(path).notes[0]


@pytest.mark.parametrize("rotated", [False, True], ids=["in one file", "in a new file"])
async def test_a_piece_hides_nothing_that_is_before_it(tmp_path: Path, rotated: bool) -> None:
    """It has no sum of the line before; the line after it has."""
    path, old = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    await session(tmp_path)
    if rotated:
        path.rename(old)
        path.write_bytes(b"")
    path.write_bytes(path.read_bytes() + b'{"seq":5,"ti')
    await session(tmp_path)
    files = [old, path] if rotated else [path]
    assert whole(*files).begins
    forged = files[0]
    found = forged.read_bytes().splitlines(keepends=True)
    found[3] = found[3].replace(b"alice", b"mallo")
    forged.write_bytes(b"".join(found))
    assert "the line before it is not the one" in verify(files).problems[0]


async def test_a_kill_while_it_is_said_that_there_was_a_kill(tmp_path: Path) -> None:
    """Leaves two pieces, or a first line that is one; the next server goes on, and vouches for both."""
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"seq":1,"\n{"seq":2,"time":')
    await session(tmp_path)
    assert whole(path).begins
    path.write_bytes(path.read_bytes() + b'{"seq":\n{"se')
    await session(tmp_path)
    assert whole(path).number == 12


async def test_one_file_is_for_one_jobd(tmp_path: Path) -> None:
    """Two would break each other's chain."""
    async with opened(tmp_path):
        with pytest.raises(ConfigError, match="another jobd writes it"):
            AuditLog(tmp_path / "audit.jsonl", tmp_path / "other")
    await session(tmp_path)
    whole(tmp_path / "audit.jsonl")


@pytest.mark.parametrize("how", ["renamed", "copied and truncated", "compressed"])
@pytest.mark.parametrize("while_it_runs", [True, False], ids=["while it runs", "between two servers"])
async def test_the_chain_goes_on_over_a_rotation(tmp_path: Path, how: str, while_it_runs: bool) -> None:
    """The new file's first line vouches for the old one's last."""
    path, old = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"

    def rotate() -> None:
        if how == "renamed":
            path.rename(old)
        elif how == "compressed":
            with gzip.open(tmp_path / "audit.jsonl.1.gz", "wb") as packed:
                packed.write(path.read_bytes())
            path.unlink()
        else:
            shutil.copy(path, old)
            os.truncate(path, 0)

    if while_it_runs:
        async with opened(tmp_path) as log:
            log.put(FACTS)
            await written(log, 2)
            rotate()
            log.put(FACTS)
    else:
        await session(tmp_path, 1)
        rotate()
        await session(tmp_path, 0)
    files = [tmp_path / "audit.jsonl.1.gz" if how == "compressed" else old, path]
    assert whole(*files).lines == 3
    assert not whole(path).begins
    assert verify(files[::-1]).problems
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


Forgery = Callable[[list[bytes]], list[bytes]]


@pytest.mark.parametrize(
    "forge",
    [
        lambda found: [found[0], found[1].replace(b"alice", b"mallo"), *found[2:]],
        lambda found: [*found[:2], *found[3:]],
        lambda found: [*found[:2], found[1], *found[2:]],
        lambda found: [found[0], found[2], found[1], *found[3:]],
        lambda found: [*found[:2], b"{}", *found[2:]],
        lambda found: [*found[:2], b"x", *found[2:]],
        lambda found: [*found[:2], b"", *found[2:]],
        lambda found: [*found[:2], found[2][:-9], *found[3:]],
    ],
    ids=["changed", "taken out", "doubled", "swapped", "put in", "no JSON", "empty", "cut"],
)
async def test_a_line_that_is_not_as_it_was_written_is_found(tmp_path: Path, forge: Forgery) -> None:
    """Whatever was done to it, and where."""
    await session(tmp_path, 4)
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"\n".join(forge(path.read_bytes().splitlines())) + b"\n")
    assert verify([path]).problems
    assert cli.main(["verify", str(path)]) == 1


async def test_an_end_that_was_cut_off_while_nobody_was_here_is_found(
    tmp_path: Path, errors_expected: list[EventDict], log_guard: list[EventDict]
) -> None:
    """By the next server, which says so in the log and in the audit log."""
    await session(tmp_path, 5)
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    await session(tmp_path)
    assert [entry["lines"] for entry in log_guard if entry["event"].startswith("the audit log lacks its end")] == [3]
    assert verify([path]).problems == [f"{path}:4: 3 lines before it were cut off while no jobd ran"]


@pytest.mark.parametrize("more", [0, 1], ids=["the last line", "all of it, and one more"])
async def test_an_end_that_was_changed_while_nobody_was_here_is_found(
    tmp_path: Path, errors_expected: list[EventDict], log_guard: list[EventDict], more: int
) -> None:
    """By the next server: how far the log was is elsewhere, too."""
    await session(tmp_path)
    path = tmp_path / "audit.jsonl"
    head, forged = Head(), list[bytes]()
    for line in [*lines(path), *[FACTS] * more]:
        facts = {name: value for name, value in line.items() if name not in ("seq", "time", "prev")}
        data, head = head.follow("2026-01-01", {**facts, "principal": "mallory"})
        forged.append(data + b"\n")
    path.write_bytes(b"".join(forged) if more else b"".join([*path.read_bytes().splitlines(True)[:3], forged[3]]))
    await session(tmp_path)
    assert "the audit log was changed while no jobd ran" in [entry["event"] for entry in log_guard]
    assert f"{path}:{5 + more}: a line before it was changed while no jobd ran" in verify([path]).problems


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 60_000,
        b'{"seq":1,"prev":"","event":"opened","lacks":"x","torn":[]}',
        b'{"seq":1,"prev":"","event":"lost","lines":"\\u001b[2J","time":"\\u001b[2Jwhole"}',
    ],
    ids=["brackets", "no numbers", "escapes"],
)
def test_what_somebody_put_there_is_shown_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: bytes
) -> None:
    """Whoever looks at it sees no traceback, and nothing that the terminal takes for more than text."""
    path = tmp_path / "audit.jsonl"
    path.write_bytes(line + b"\n")
    cli.main(["verify", str(path)])
    assert "\x1b" not in "".join(capsys.readouterr())


def test_a_packed_file_that_is_damaged_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As one that cannot be read."""
    path = tmp_path / "audit.jsonl.1.gz"
    data = bytearray(gzip.compress(os.urandom(1000)))
    data[10] |= 0b110  # a kind of block that there is not
    path.write_bytes(data)
    assert cli.main(["verify", str(path)]) == 2
    assert "jobd audit: " in capsys.readouterr().err


async def test_a_sum_that_was_kept_elsewhere_proves_that_its_line_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against somebody who makes all of it anew."""
    await session(tmp_path)
    path = tmp_path / "audit.jsonl"
    assert cli.main(["verify", str(path)]) == 0
    printed = capsys.readouterr().out
    kept = printed.split("the last is line 4 of the log: ")[1].splitlines()[0]
    assert printed.endswith("whole\n")
    await session(tmp_path)
    assert cli.main(["verify", "--contains", kept, str(path)]) == 0
    path.unlink()
    (tmp_path / "memory").unlink()
    await session(tmp_path)
    assert cli.main(["verify", str(path)]) == 0
    assert cli.main(["verify", "--contains", kept, str(path)]) == 1
    assert f"no line has the sum {kept}" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With another code than one that is not whole."""
    assert cli.main(["verify", str(tmp_path / "x")]) == 2
    assert "No such file" in capsys.readouterr().err


async def test_a_disk_that_takes_nothing_costs_no_line_until_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors_expected: list[EventDict], log_guard: list[EventDict]
) -> None:
    """They are kept; what is beyond the bound is counted, and the log itself says how many."""
    monkeypatch.setattr(audit_log, "MOST", 5)
    monkeypatch.setattr(audit_log, "RETRY", 0.001)
    path = tmp_path / "audit.jsonl"
    write, full = os.write, [False]

    def failing(fd: int, data: bytes) -> int:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[:100])  # in pieces

    monkeypatch.setattr(audit_log.os, "write", failing)
    async with opened(tmp_path) as log:
        await written(log, 1)
        full[0] = True
        log.put(FACTS)
        while not any("cannot be written" in entry["event"] for entry in log_guard):
            await trio.sleep(0.001)
        for _ in range(8):
            log.put(FACTS)
        assert log.lost == 3
        full[0] = False
        await written(log, 1 + 1 + 5 + 1)
    assert verify([path]).problems == [f"{path}:8: 3 lines before it were lost, since the disk took none"]
    events = [entry["event"] for entry in log_guard if entry["event"].startswith("the audit log can")]
    assert events == [
        "the audit log cannot be written; lines are kept, and then lost",
        "the audit log can be written again",
    ]


async def test_the_end_of_a_server_does_not_wait_long_for_such_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors_expected: list[EventDict]
) -> None:
    """It says how many lines there are not."""
    monkeypatch.setattr(audit_log, "PATIENCE", 0.05)
    monkeypatch.setattr(audit_log, "RETRY", 0.001)

    def failing(fd: int, data: bytes) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(audit_log.os, "write", failing)
    with trio.fail_after(patient(20)):
        await session(tmp_path, 1000)


async def test_what_is_said_is_bounded_and_stays_on_its_line(tmp_path: Path) -> None:
    """Whatever somebody's name is."""
    async with opened(tmp_path) as log:
        log.put({"event": "call", "principal": "é\n\x1b[2J\udc80" * 100_000})
    path = tmp_path / "audit.jsonl"
    assert whole(path).lines == 2
    assert path.read_bytes().isascii()
    assert path.stat().st_size < 20_000


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.write_text("something else\n"), "is not an audit log of jobd"),
        (lambda path: path.write_text("x"), "is not an audit log of jobd"),
        (lambda path: path.write_text('{"se'), None),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: os.mkfifo(path), "it is not a file"),
        (lambda path: path.symlink_to("/dev/null"), "Too many levels of symbolic links"),
        (lambda path: (path.touch(), path.chmod(0o666)), "everybody can write it"),
    ],
    ids=["another file", "another piece", "a piece", "a directory", "a pipe", "a link", "for everybody"],
)
async def test_a_file_that_cannot_be_it_is_refused(
    tmp_path: Path, make: Callable[[Path], Any], why: str | None
) -> None:
    """And left alone. (A piece without a newline could be the first line of one.)"""
    make(tmp_path / "audit.jsonl")
    if why is None:
        await session(tmp_path)
        return
    with pytest.raises(ConfigError, match=why):
        await session(tmp_path)
