"""A log that is cut or changed anywhere goes on from its last whole record, says so, and never gives wrong bytes."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.typing import EventDict

from jobd.output.files import Segment
from jobd.output.log import LogStore
from jobd.output.reader import LogReader
from jobd.output.record import ENTRY
from jobd.output.writer import LogWriter
from jobd.worker.errors import OutputDamagedError
from jobd.worker.ports import Gap, Record, Source, Start
from tests.support.jobs import put

JOB = "0123abcd-0000-4000-8000-000000000000"
DATA, INDEX = f"{JOB}.{0:016x}", f"{JOB}.{0:016x}.index"
PIECES = [(Source.STDOUT, b"first"), (Source.STDERR, b"er;"), (Source.STDOUT, b"mo;"), (Source.STDERR, b"e")]
SPLIT = {
    source: b"".join(data for kind, data in PIECES if kind is source) for source in Source
}  # what the job wrote to each stream
ENDS = [sum(len(data) for _, data in PIECES[:count]) for count in range(len(PIECES) + 1)]
TOTAL = ENDS[-1]


def record(root: Path, pieces: list[tuple[Source, bytes]], *, finished: bool) -> None:
    """Write a log, each piece a run of its own; killed, or finished."""
    writer = LogWriter(root, JOB, limit=2**63)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    for time, (source, data) in enumerate(pieces, start=1):
        os.write(writing, data)
        assert writer.take(source, reading, time * 10**9).record
    if finished:
        writer.finish(99 * 10**9)
    writer.leave()
    os.close(reading)
    os.close(writing)


def copy_of(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / JOB[:2]).iterdir()}


def restore(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / JOB[:2] / name).write_bytes(content)


def resumed(root: Path, *, power_cut: bool) -> tuple[dict[Source, bytes], int, list[Gap]]:
    """Go on with the log, and read it: the bytes of each stream, those dropped, and the gaps that are told."""
    writer = LogWriter(root, JOB, limit=2**63)
    writer.resume(power_cut=power_cut)
    writer.leave()  # and not finish(): thousands of fdatasync would take long
    got, gaps = read(root, writer.end)
    return got, writer.dropped, gaps


def read(root: Path, end: int) -> tuple[dict[Source, bytes], list[Gap]]:
    got, gaps, offset = dict.fromkeys(Source, b""), [], 0
    reader = LogReader(root, JOB)
    try:
        while offset < end:
            for event in reader.read(offset, end):
                if isinstance(event, Record):
                    assert event.offset == offset
                    got[event.source] += event.data
                    offset = event.end
                else:
                    gaps.append(event)
    finally:
        reader.close()
    return got, gaps


def is_a_beginning(got: dict[Source, bytes]) -> bool:
    return all(SPLIT[source].startswith(data) for source, data in got.items())


@pytest.mark.parametrize("finished", [False, True])
def test_a_log_cut_at_every_byte_of_its_last_records_is_cut_at_the_last_whole_one(
    tmp_path: Path, finished: bool
) -> None:
    """After a power cut: whatever is left of either file, what is given is what was written, and all that is
    vouched for; every byte of the data that is not is counted."""
    record(tmp_path, PIECES, finished=finished)
    files = copy_of(tmp_path)
    for data_size in range(ENDS[1], TOTAL + 1):
        for index_size in range(ENTRY.size, len(files[INDEX]) + 1):
            restore(tmp_path, {DATA: files[DATA][:data_size], INDEX: files[INDEX][:index_size]})
            got, dropped, _ = resumed(tmp_path, power_cut=True)
            # n whole entries vouch for n-1 runs; of those the ones count whose bytes are all there
            whole = max(end for end in ENDS[: index_size // ENTRY.size] if end <= data_size)
            assert sum(map(len, got.values())) == whole, (data_size, index_size)
            assert is_a_beginning(got)
            assert dropped >= data_size - whole


@pytest.mark.parametrize("power_cut", [False, True])
@pytest.mark.parametrize("finished", [False, True])
def test_a_flipped_bit_anywhere_never_gives_wrong_bytes(tmp_path: Path, finished: bool, power_cut: bool) -> None:
    """In the index or the data: less, and that is counted; or an error when it is read; or it meant nothing."""
    record(tmp_path, PIECES, finished=finished)
    files = copy_of(tmp_path)
    for name, content in files.items():
        for position in range(len(content)):
            flipped = bytearray(content)
            flipped[position] ^= 1 << (position % 8)
            restore(tmp_path, {**files, name: bytes(flipped)})
            try:
                got, dropped, _ = resumed(tmp_path, power_cut=power_cut)
            except OutputDamagedError:
                continue
            assert is_a_beginning(got), (name, position)
            assert sum(map(len, got.values())) + dropped == TOTAL, (name, position)


def test_after_a_kill_nothing_is_cut(tmp_path: Path) -> None:
    """The kernel lives, so the bytes after the last mark are the last run's: a kill between the two loses none."""
    record(tmp_path, PIECES, finished=False)
    files = copy_of(tmp_path)
    for torn in range(len(PIECES) * ENTRY.size, len(files[INDEX]) + 1):
        restore(tmp_path, {**files, INDEX: files[INDEX][:torn]})
        assert resumed(tmp_path, power_cut=False) == (SPLIT, 0, [])


@pytest.mark.parametrize("power_cut", [False, True])
def test_a_last_run_that_is_not_what_its_sum_says_is_cut_after_a_power_cut(tmp_path: Path, power_cut: bool) -> None:
    """After a kill it cannot be the writer's doing: then it stays, and reading it is an error."""
    record(tmp_path, PIECES, finished=False)
    files = copy_of(tmp_path)
    restore(tmp_path, {DATA: files[DATA][:-1] + b"?"})
    if power_cut:
        got, dropped, gaps = resumed(tmp_path, power_cut=True)
        assert (sum(map(len, got.values())), dropped, gaps) == (TOTAL - 1, 1, [])  # nothing after it: told at the end
    else:
        with pytest.raises(OutputDamagedError):
            resumed(tmp_path, power_cut=False)


@pytest.mark.parametrize("power_cut", [False, True])
def test_bytes_that_are_gone_are_counted(tmp_path: Path, power_cut: bool) -> None:
    """The data is shorter than the index says, while nobody wrote: whole runs stay, and the rest is missing."""
    record(tmp_path, PIECES, finished=False)
    for size in range(TOTAL):
        files = copy_of(tmp_path)
        os.truncate(tmp_path / JOB[:2] / DATA, size)
        got, dropped, _ = resumed(tmp_path, power_cut=power_cut)
        kept = sum(map(len, got.values()))
        assert is_a_beginning(got)
        assert kept == max(end for end in ENDS if end <= size)
        assert kept + dropped == TOTAL
        restore(tmp_path, files)


def test_a_data_file_that_somebody_cuts_meanwhile_loses_what_is_counted(tmp_path: Path) -> None:
    """As with `> file`: what was recorded before is missed when it is read, what comes next is there or counted."""
    writer = LogWriter(tmp_path, JOB, limit=2**63)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.write(writing, b"before")
    writer.take(Source.STDOUT, reading, 1)
    os.truncate(tmp_path / JOB[:2] / DATA, 0)
    os.write(writing, b"after")
    taken = writer.take(Source.STDERR, reading, 2)
    assert taken.record is not None
    assert taken.record.data == b"after"
    with pytest.raises(OutputDamagedError):
        read(tmp_path, writer.end)
    writer.leave()
    os.close(reading)
    os.close(writing)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_log_cut_anywhere_gives_a_beginning(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever was written, wherever both files end, and killed again and again meanwhile."""
    root = tmp_path_factory.mktemp("log")
    pieces = data.draw(st.lists(st.tuples(st.sampled_from(Source), st.binary(min_size=1, max_size=40)), min_size=1))
    record(root, pieces, finished=data.draw(st.booleans()))
    for name, content in copy_of(root).items():
        os.truncate(root / JOB[:2] / name, data.draw(st.integers(0, len(content)), label=name))
    writer = LogWriter(root, JOB, limit=2**63)
    writer.resume(power_cut=True)
    writer.leave()
    got, dropped, gaps = resumed(root, power_cut=data.draw(st.booleans()))
    for source in Source:
        assert b"".join(piece for kind, piece in pieces if kind is source).startswith(got[source])
    if sum(map(len, got.values())):  # a gap before the first byte cannot be told by offsets alone
        assert sum(gap.dropped for gap in gaps) in (0, dropped)


async def test_a_cut_is_said_and_told(tmp_path: Path, log_guard: list[EventDict]) -> None:
    """A line in the log with where and how much; a gap in the stream; and it counts as dropped."""
    record(tmp_path, PIECES, finished=False)
    os.truncate(tmp_path / JOB[:2] / INDEX, 3 * ENTRY.size + 7)
    store = LogStore(tmp_path)
    end, dropped = await store.recover(JOB)
    assert (end, dropped) == (8, TOTAL - 8)
    [said] = [entry for entry in log_guard if entry["event"] == "a torn log was cut at its last whole record"]
    assert (said["job"], said["offset"], said["bytes_cut"]) == (JOB, 8, TOTAL - 8)
    follower = await store.get(JOB, end, dropped).follow(Start())
    events: list[Record | Gap] = []
    while received := await follower.receive():
        events += received
    follower.close()
    assert [event for event in events if isinstance(event, Gap)] == [Gap(8, TOTAL - 8)]


# ---- a disk that fails


class Faults:
    """Lets calls of ``os`` fail as a disk does: ``faults[name] = errno`` until it is taken out again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failing: dict[str, int] = {}
        for name in ("splice", "pwrite", "pread", "ftruncate", "fdatasync", "open", "listdir"):
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if name in self.failing:
                raise OSError(self.failing[name], os.strerror(self.failing[name]))
            return call(*args, **kwargs)

        return wrapper


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    return Faults(monkeypatch)


@pytest.mark.parametrize("seed", range(12))
async def test_faults_at_random_lose_only_what_is_counted(tmp_path: Path, faults: Faults, seed: int) -> None:
    """EIO, ENOSPC and EROFS from any call, coming and going, kills in between: what is read is what was written, less
    the gaps, and those have the right sizes."""
    rng = random.Random(seed)
    writer = LogWriter(tmp_path, JOB, limit=2**63, segment_size=400)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    written = 0
    for number in range(150):
        faults.failing.clear()
        if rng.random() < 0.6:
            for call in rng.sample(["splice", "pwrite", "pread", "ftruncate", "fdatasync", "open", "listdir"], 2):
                faults.failing[call] = rng.choice([errno.EIO, errno.ENOSPC, errno.EROFS])
        piece = rng.randbytes(rng.randrange(1, 30))
        os.write(writing, piece)
        written += len(piece)
        taken = writer.take(rng.choice(list(Source)), reading, number * 10**9)
        recorded = taken.record.data if taken.record else b""
        assert len(recorded) + taken.dropped == len(piece)
        assert recorded in (b"", piece)
    faults.failing.clear()
    writer.finish(10**12)
    os.close(reading)
    os.close(writing)
    got, gaps = read(tmp_path, writer.end)
    assert sum(map(len, got.values())) == writer.end == written - writer.dropped
    assert sum(gap.dropped for gap in gaps) <= writer.dropped  # one before the first or after the last byte has none


def test_an_index_that_cannot_be_written_loses_no_earlier_entry(tmp_path: Path, faults: Faults) -> None:
    """However often it fails: an entry is only counted when it stands there."""
    writer = LogWriter(tmp_path, JOB, limit=2**63)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    for time, (source, data) in enumerate(PIECES, start=1):
        [other] = set(Source) - {source}
        writer.take(other, reading, time * 10**9)  # nothing there: an entry without bytes, to be written over
        faults.failing["pwrite"] = errno.EIO
        for _ in range(3):
            os.write(writing, b"lost")
            assert writer.take(source, reading, time * 10**9).dropped == 4
        faults.failing.clear()
        os.write(writing, data)
        assert writer.take(source, reading, time * 10**9).record
    writer.finish(99 * 10**9)
    os.close(reading)
    os.close(writing)
    assert read(tmp_path, writer.end)[0] == SPLIT
    assert writer.dropped == 3 * 4 * len(PIECES)


def test_drops_are_known_after_a_kill(tmp_path: Path, faults: Faults) -> None:
    """They are noted in the place of the next entry, for which a full disk has room most of the time."""
    writer = LogWriter(tmp_path, JOB, limit=2**63)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.write(writing, b"recorded")
    writer.take(Source.STDOUT, reading, 1)
    for _ in range(3):
        faults.failing["splice"] = errno.ENOSPC
        os.write(writing, b"lost")
        writer.take(Source.STDOUT, reading, 2)
        faults.failing.clear()
        writer.leave()  # killed
        writer = LogWriter(tmp_path, JOB, limit=2**63)
        writer.resume()
    assert (writer.end, writer.dropped) == (8, 12)
    os.write(writing, b"again")
    assert writer.take(Source.STDERR, reading, 3).record
    assert sum(gap.dropped for gap in read(tmp_path, 13)[1]) == 12
    writer.leave()  # killed again: what an entry tells of is not counted twice
    writer = LogWriter(tmp_path, JOB, limit=2**63)
    writer.resume()
    assert (writer.end, writer.dropped) == (13, 12)
    writer.leave()
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("failing", ["open", "listdir", "pwrite"])
async def test_a_log_that_cannot_be_gone_on_with_costs_only_its_new_output(
    tmp_path: Path, faults: Faults, failing: str, errors_expected: list[EventDict]
) -> None:
    """Adoption on a disk that fails: pipes are drained, what comes is counted, and it goes on when the disk does."""
    record(tmp_path, PIECES, finished=False)
    log = LogStore(tmp_path).create(JOB)
    if failing == "pwrite":  # a full disk: there is room for nothing
        faults.failing["splice"] = errno.ENOSPC
    faults.failing[failing] = errno.EIO
    await log.resume()
    await put(log, Source.STDOUT, b"lost")
    assert log.dropped == 4
    faults.failing.clear()
    await put(log, Source.STDERR, b"!")
    await log.finish()
    got, gaps = read(tmp_path, log.end)
    assert got == {**SPLIT, Source.STDERR: SPLIT[Source.STDERR] + b"!"}
    assert gaps == [Gap(TOTAL, 4)]


def test_times_do_not_go_back(tmp_path: Path) -> None:
    """A clock that jumps back, in one life of the writer or between two: entries are searched by time."""
    writer = LogWriter(tmp_path, JOB, limit=2**63)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    for time in (5, 3, 9, 1, 2):
        os.write(writing, b"%d" % time)
        writer.take(Source.STDOUT if time % 2 else Source.STDERR, reading, time * 10**9)
        writer.leave()
        writer = LogWriter(tmp_path, JOB, limit=2**63)
        writer.resume()
    end = writer.end
    writer.finish(4 * 10**9)
    os.close(reading)
    os.close(writing)
    segment = Segment.read(tmp_path, JOB, 0)
    times = [entry.time // 10**9 for entry in segment.entries(0, 100)]
    segment.close()
    assert times == sorted(times)
    reader = LogReader(tmp_path, JOB)
    assert [reader.at_time(time * 10**9, end) for time in (1, 5, 6, 9, 10)] == [0, 0, 2, 2, 5]


def test_a_state_directory_that_was_taken_away_is_not_made_again(tmp_path: Path) -> None:
    """What is written then is dropped and counted; nothing is made that others could enter."""
    root = tmp_path / "state" / "output"
    writer = LogWriter(root, JOB, limit=2**63)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.write(writing, b"lost")
    assert writer.take(Source.STDOUT, reading, 1).dropped == 4
    assert not root.parent.exists()
    root.parent.mkdir(mode=0o700)
    os.write(writing, b"back")
    assert writer.take(Source.STDOUT, reading, 2).record
    assert {path.stat().st_mode & 0o777 for path in (root, root / JOB[:2])} == {0o700}
    writer.leave()
    os.close(reading)
    os.close(writing)
