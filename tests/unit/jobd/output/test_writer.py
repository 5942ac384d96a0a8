"""The writer of a log: segments, runs, and what a kill at any moment leaves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobd.output.files import starts_of
from jobd.output.reader import LogReader
from jobd.output.record import ENTRY
from jobd.output.writer import RUN_TIME, LogWriter, Taken
from jobd.worker.ports import Gap, Record, Source

JOB = "0123abcd-0000-4000-8000-000000000000"


class Feed:
    """A writer, and the two pipes of its job."""

    def __init__(self, root: Path, **settings: int) -> None:
        self.root = root
        self.settings = {"limit": 2**63, **settings}
        self.pipes = {source: os.pipe2(os.O_CLOEXEC) for source in Source}
        self.writer = LogWriter(root, JOB, **self.settings)
        self.time = 0

    def write(self, source: Source, data: bytes) -> None:
        """The job writes."""
        os.write(self.pipes[source][1], data)

    def take(self, source: Source) -> Taken:
        """The writer takes; a second later than before."""
        self.time += 10**9
        return self.writer.take(source, self.pipes[source][0], self.time)

    def put(self, source: Source, data: bytes) -> Taken:
        self.write(source, data)
        return self.take(source)

    def killed(self) -> None:
        """The process is gone, and another one goes on: nothing is flushed, sealed or told."""
        self.writer.leave()
        self.writer = LogWriter(self.root, JOB, **self.settings)
        self.writer.resume()

    def events(self, offset: int = 0) -> list[Record | Gap]:
        """What a reader finds; one that would rather not wait for the disk finds the same."""
        reader, hasty = LogReader(self.root, JOB), LogReader(self.root, JOB)
        events: list[Record | Gap] = []
        while offset < self.writer.end:
            found = reader.read(offset, self.writer.end)
            assert found == (hasty.read_now(offset, self.writer.end) or hasty.read(offset, self.writer.end))
            events += found
            offset = events[-1].end
        reader.close()
        hasty.close()
        return events

    def read(self, offset: int = 0) -> list[Record]:
        return [event for event in self.events(offset) if isinstance(event, Record)]

    def close(self) -> None:
        self.writer.leave()
        for pair in self.pipes.values():
            for fd in pair:
                os.close(fd)


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[Feed]:
    made = Feed(tmp_path)
    yield made
    made.close()


def test_a_pipe_with_nothing_in_it_gives_nothing(feed: Feed) -> None:
    """It is not the end, and it is never waited for."""
    assert feed.take(Source.STDOUT) == Taken()


def test_the_end_of_a_stream_is_told(feed: Feed) -> None:
    """After the last byte."""
    feed.write(Source.STDOUT, b"last")
    os.close(feed.pipes[Source.STDOUT][1])
    assert feed.take(Source.STDOUT).record
    assert feed.take(Source.STDOUT).ended
    feed.pipes[Source.STDOUT] = (feed.pipes[Source.STDOUT][0], os.open(os.devnull, os.O_WRONLY))


def test_offsets_count_both_streams(feed: Feed) -> None:
    """In the order in which they were taken."""
    for source, data in [(Source.STDOUT, b"ab"), (Source.STDERR, b"c"), (Source.STDOUT, b"def")]:
        feed.put(source, data)
    assert [(r.offset, r.source, r.data) for r in feed.read()] == [
        (0, Source.STDOUT, b"ab"),
        (2, Source.STDERR, b"c"),
        (3, Source.STDOUT, b"def"),
    ]


def test_pieces_that_come_together_share_an_entry(feed: Feed) -> None:
    """And its time: what is read later has the times that were told live."""
    live = [feed.put(Source.STDOUT, b"a").record]
    feed.time -= 10**9 - RUN_TIME // 2
    live.append(feed.put(Source.STDOUT, b"b").record)
    live.append(feed.put(Source.STDOUT, b"c").record)
    assert [(r.time, r.data) for r in feed.read()] == [(10**9, b"ab"), (live[2] and live[2].time, b"c")]
    assert [r and r.time for r in live[:2]] == [10**9, 10**9]


def test_segments_are_read_across(tmp_path: Path) -> None:
    """From any offset."""
    feed = Feed(tmp_path, segment_size=100)
    for i in range(40):
        feed.put(Source.STDOUT if i % 2 else Source.STDERR, b"%010d" % i)
    feed.writer.finish(1)
    assert starts_of(tmp_path, JOB) == [0, 100, 200, 300]
    for offset in range(0, 400, 13):
        assert b"".join(r.data for r in feed.read(offset)) == b"".join(b"%010d" % i for i in range(40))[offset:]
    feed.close()


def test_a_reader_finds_its_place_among_many_entries(feed: Feed) -> None:
    """More than are read at a time."""
    for i in range(2000):
        feed.put(Source.STDOUT if i % 2 else Source.STDERR, b"%05d" % i)
    for offset in (0, 2_559, 2_560, 2_561, 9_999):
        assert b"".join(r.data for r in feed.read(offset)) == b"".join(b"%05d" % i for i in range(2000))[offset:]


def test_after_a_kill_the_log_goes_on_where_it_was(feed: Feed) -> None:
    """Offsets, bytes, and the sums that later readings are held against."""
    feed.put(Source.STDOUT, b"before")
    feed.write(Source.STDERR, b"in the pipe")
    feed.killed()
    assert feed.writer.end == 6
    feed.take(Source.STDERR)
    feed.put(Source.STDOUT, b"after")
    feed.writer.finish(99)
    assert [r.data for r in feed.read()] == [b"before", b"in the pipe", b"after"]


def test_an_entry_whose_bytes_never_came_is_written_over(feed: Feed, tmp_path: Path) -> None:
    """The kill came between the entry and the bytes: they are still in the pipe, of whichever stream."""
    feed.put(Source.STDOUT, b"one")
    feed.take(Source.STDERR)  # nothing there: an entry without bytes stands in the index
    feed.killed()
    feed.put(Source.STDOUT, b"two")
    feed.writer.finish(99)
    assert [(r.source, r.data) for r in feed.read()] == [(Source.STDOUT, b"one"), (Source.STDOUT, b"two")]


def test_a_finished_log_can_be_gone_on_with(feed: Feed) -> None:
    """The kill came between the end of the log and the end of the job in the store."""
    feed.put(Source.STDOUT, b"all")
    feed.writer.finish(99)
    feed.killed()
    feed.writer.finish(100)
    assert (feed.writer.end, [r.data for r in feed.read()]) == (3, [b"all"])


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_bytes_survive_any_sequence_of_writes_takes_and_kills(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """For each stream, what was written is what is read, in order, whatever happened in between."""
    feed = Feed(tmp_path_factory.mktemp("log"), segment_size=50)
    written = dict.fromkeys(Source, b"")
    try:
        for _ in range(data.draw(st.integers(1, 25))):
            source = data.draw(st.sampled_from(Source))
            match data.draw(st.sampled_from(["write", "take", "take", "kill"])):
                case "write":
                    piece = data.draw(st.binary(min_size=1, max_size=30))
                    written[source] += piece
                    feed.write(source, piece)
                case "take":
                    feed.take(source)
                case _:
                    feed.killed()
        for source in Source:
            feed.take(source)
        feed.writer.finish(1)
        read = {s: b"".join(r.data for r in feed.read() if r.source is s) for s in Source}
        assert read == written
    finally:
        feed.close()


def test_output_beyond_the_limit_is_dropped_and_counted(tmp_path: Path) -> None:
    """The job goes on; exactly the limit is recorded, and after a kill it is still known how much is missing."""
    feed = Feed(tmp_path, limit=10)
    feed.write(Source.STDOUT, b"0123456789abcdef")
    assert feed.take(Source.STDOUT).record
    assert feed.take(Source.STDOUT).dropped == 6
    feed.write(Source.STDERR, b"more")
    assert "the limit of 10 bytes" in feed.take(Source.STDERR).error
    feed.writer.finish(99)
    assert [r.data for r in feed.read()] == [b"0123456789"]
    feed.killed()
    assert (feed.writer.end, feed.writer.dropped) == (10, 10)
    feed.close()


def test_a_gap_stands_where_the_bytes_are_missing(feed: Feed) -> None:
    """In the middle and at the end; whoever reads again from any offset before it sees it once."""
    feed.put(Source.STDOUT, b"before")
    feed.writer._gap = 7  # as after a write that failed
    live = feed.put(Source.STDERR, b"after").gap
    feed.writer._gap = 9
    feed.writer.finish(99)
    assert live == Gap(6, 7)
    assert feed.writer.take_gap() == Gap(11, 9)
    told = [Gap(6, 7), Gap(11, 9)]
    for offset in range(6):
        assert [event for event in feed.events(offset) if isinstance(event, Gap)] == told
    assert [event for event in feed.events(8) if isinstance(event, Gap)] == told[1:]


@pytest.mark.parametrize("size", [30, 10**6])
def test_a_reader_finds_lines_and_times(tmp_path: Path, size: int) -> None:
    """Over segments; a last line without a newline is a line; more lines than there are is all of them."""
    feed = Feed(tmp_path, segment_size=size)
    for i in range(20):
        feed.put(Source.STDOUT if i % 2 else Source.STDERR, b"line %d\n" % i)
    feed.put(Source.STDOUT, b"unterminated")
    reader = LogReader(tmp_path, JOB)
    end = feed.writer.end

    def text(offset: int) -> bytes:
        return b"".join(r.data for r in feed.read(offset))

    assert text(reader.at_lines(1, end)) == b"unterminated"
    assert text(reader.at_lines(3, end)) == b"line 18\nline 19\nunterminated"
    assert (reader.at_lines(0, end), reader.at_lines(21, end), reader.at_lines(99, end)) == (end, 0, 0)
    assert text(reader.at_time(20 * 10**9, end)) == b"line 19\nunterminated"
    assert (reader.at_time(0, end), reader.at_time(10**12, end)) == (0, end)
    feed.close()


def test_a_segment_that_was_half_made_is_made_again(feed: Feed, tmp_path: Path) -> None:
    """The kill came between its two files."""
    (tmp_path / JOB[:2]).mkdir()
    (tmp_path / JOB[:2] / f"{JOB}.{0:016x}.index").write_bytes(b"whatever")
    feed.killed()
    assert feed.put(Source.STDOUT, b"all of it").dropped == 0
    feed.writer.finish(99)
    assert [r.data for r in feed.read()] == [b"all of it"]


def test_a_torn_index_is_cut_at_its_last_whole_entry(feed: Feed, tmp_path: Path) -> None:
    """A power cut can leave half an entry."""
    feed.put(Source.STDOUT, b"one")
    feed.writer.leave()
    [index] = (tmp_path / JOB[:2]).glob("*.index")
    os.truncate(index, ENTRY.size + 7)
    feed.killed()
    feed.put(Source.STDERR, b"two")
    feed.writer.finish(99)
    assert [r.data for r in feed.read()] == [b"one", b"two"]
