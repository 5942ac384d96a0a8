"""The short ways of ``api.rpc.http2`` against h2's own: the same bytes in, the same events out, the same state."""

from __future__ import annotations

import copy
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.errors import NotFoundError
from api.rpc.codec import PREFIX, MessageReader, whole
from api.rpc.connection import MAX_HEADER_LIST, Connection
from api.rpc.corrected_h2 import CorrectedH2
from api.rpc.events import MessageReceived, RequestReceived, StreamFailed, WindowUpdated
from api.rpc.frames import CONTINUATION, HEADER
from api.rpc.header_blocks import RememberingDecoder, RememberingEncoder
from tests.support.wire import CALL, RawClient

thoroughly = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
STREAMS = st.integers(0, 6).map(lambda n: 2 * n + 1)
OTHER_HEADERS = (
    CALL,
    (*CALL, ("x-trace", "1")),
    (*CALL, ("grpc-timeout", "5S")),
    (*CALL, ("content-length", "7")),
    tuple((k, "GET" if k == ":method" else v) for k, v in CALL),
    (*CALL, ("x-evil", "a\r\nb")),
)


class ByH2(Connection):
    """A connection whose frames all go h2's own way."""

    @staticmethod
    def _make_h2(*, client_side: bool) -> CorrectedH2:
        config = h2.config.H2Configuration(
            client_side=client_side, header_encoding=None, validate_inbound_headers=False
        )
        made = CorrectedH2(config)
        made.clear_outbound_data_buffer()
        made.decoder.max_header_list_size = MAX_HEADER_LIST
        return made


def frame(raw: RawClient) -> st.SearchStrategy[bytes]:
    """One frame, or the frames of one header block. The header table of ``raw`` goes on with each that is drawn."""
    data = st.binary(max_size=40) | st.binary(max_size=20).map(lambda m: PREFIX.pack(False, len(m)) + m)
    return st.one_of(
        st.builds(raw.headers, STREAMS, st.sampled_from(OTHER_HEADERS), end=st.booleans(), pieces=st.integers(1, 3)),
        st.builds(raw.headers, STREAMS),
        st.builds(raw.data, STREAMS, data, end=st.booleans(), padding=st.none() | st.integers(0, 9)),
        st.builds(raw.data, STREAMS, data, end=st.booleans()),
        st.builds(raw.reset, STREAMS, st.integers(0, 20)),
        st.builds(raw.window, st.just(0) | STREAMS, st.integers(1, 2**31 - 1)),
        st.builds(raw.ping, ack=st.booleans()),
        st.builds(raw.priority, STREAMS, STREAMS),
        st.builds(raw.settings, st.dictionaries(st.sampled_from([1, 3, 4]), st.integers(0, 100_000), max_size=3)),
        st.just(raw.settings({}, ack=True)),
    )


def hostile(raw: RawClient) -> st.SearchStrategy[bytes]:
    """Any frame at all."""
    return frame(raw) | st.builds(
        raw.any_frame,
        st.integers(0, 12),
        st.integers(0, 255),
        st.integers(0, 14),
        st.binary(max_size=30),
    )


def pieces(data: st.DataObject, wire: bytes) -> list[bytes]:
    """The bytes, cut anywhere."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=12)))
    return [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]


class Side:
    """A connection, what came of it, and how it ended."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.connection.initiate_connection()
        self.connection.data_to_send()
        self.events: list[Any] = []
        self.error: h2.exceptions.ProtocolError | None = None

    def receive(self, data: bytes) -> None:
        if self.error is None:
            try:
                self.events += copy.deepcopy(self.connection.receive_data(data))
            except h2.exceptions.ProtocolError as exc:
                self.error = exc

    def facts(self) -> list[Any]:
        """The events, comparable. When credit comes back may differ; where it adds up is looked at in the windows."""
        return [facts(event) for event in self.events]

    def state(self) -> dict[str, Any]:
        made = self.connection.h2_connection
        inbound = made._inbound_flow_control_window_manager
        return {
            "streams": {
                stream_id: (
                    stream.state_machine.state,
                    stream.inbound_flow_control_window,
                    stream.outbound_flow_control_window,
                )
                for stream_id, stream in made.streams.items()
                if not stream.closed
            },
            "window": inbound.current_window_size + inbound._bytes_processed,
            "out": made.outbound_flow_control_window,
            "machine": made.state_machine.state,
            "table": [(bytes(n), bytes(v)) for n, v in made.decoder.header_table.dynamic_entries],
        }


def facts(event: Any) -> Any:
    if isinstance(event, MessageReceived):
        return ("message", event.stream_id, bytes(whole(event.data)))
    if isinstance(event, RequestReceived):
        return ("request", event.stream_id, event.request)
    if isinstance(event, WindowUpdated):
        return ("window", event.stream_id, event.delta)
    if isinstance(event, StreamFailed):
        return ("failed", event.stream_id, type(event.error), str(event.error))
    return repr(event)


def without_window_updates(wire: bytes) -> list[bytes]:
    """The frames that were sent; how credit is handed back in pieces is told from the windows."""
    found = []
    while wire:
        high, low, kind, *_ = HEADER.unpack_from(wire)
        size = HEADER.size + (high << 8 | low)
        if kind != 8:
            found.append(wire[:size])
        wire = wire[size:]
    return found


def both_have(data: st.DataObject, wire: bytes) -> tuple[Side, Side]:
    """Ours and h2's way, after the same pieces of the wire: they end it alike, or have the same events."""
    ours, theirs = Side(Connection(client_side=False)), Side(ByH2(client_side=False))
    for piece in pieces(data, wire):
        ours.receive(piece)
        theirs.receive(piece)
    assert type(ours.error) is type(theirs.error)
    if ours.error is None:
        assert ours.facts() == theirs.facts()
        assert ours.state() == theirs.state()
    return ours, theirs


@thoroughly
@given(st.data())
def test_the_same_frames_make_the_same_events(data: st.DataObject) -> None:
    """However they are cut on their way; and what is sent in return, and every window and state, is the same."""
    raw = RawClient()
    ours, theirs = both_have(data, raw.begin() + b"".join(data.draw(st.lists(frame(raw), max_size=12))))
    if ours.error is not None:
        # What the error's batch had before the error is lost to both; ours may have seen more of it before.
        assert ours.facts()[: len(theirs.events)] == theirs.facts()
    sent, expected = (without_window_updates(side.connection.data_to_send()) for side in (ours, theirs))
    assert sent == expected


@thoroughly
@given(st.data())
def test_hostile_frames_end_it_as_h2_would(data: st.DataObject) -> None:
    """Nothing but a ProtocolError comes of any frames; where h2 goes on, so do we, with the same events."""
    raw = RawClient()
    both_have(data, raw.begin() + b"".join(data.draw(st.lists(hostile(raw), max_size=10))))


@thoroughly
@given(st.data())
def test_input_that_stops_anywhere_makes_nothing_that_is_not_there(data: st.DataObject) -> None:
    """At most messages that are whole already in a frame that is not; and what is refused then is refused for a header
    that says too much. When the rest comes after all, there is no difference left."""
    raw = RawClient()
    wire = raw.begin() + b"".join(data.draw(st.lists(hostile(raw), max_size=8)))
    cut = data.draw(st.integers(0, len(wire)))
    ours, theirs = Side(Connection(client_side=False)), Side(ByH2(client_side=False))
    for side in (ours, theirs):
        side.receive(wire[:cut])
    if theirs.error is None:
        whole_frames = theirs.facts()
        assert ours.facts()[: len(whole_frames)] == whole_frames
        assert all(fact[0] == "message" for fact in ours.facts()[len(whole_frames) :])
        assert ours.error is None or isinstance(ours.error, h2.exceptions.FrameTooLargeError)
    for side in (ours, theirs):
        side.receive(wire[cut:])
    assert type(ours.error) is type(theirs.error)
    if ours.error is None:
        assert ours.facts() == theirs.facts()
        assert ours.state() == theirs.state()


@thoroughly
@given(st.data())
def test_what_is_given_up_in_the_middle_of_a_frame_is_given_up(data: st.DataObject) -> None:
    """Calls are answered, refused and cancelled between any two bytes of their requests; all credit comes back."""
    raw = RawClient()
    wire = raw.begin() + b"".join(data.draw(st.lists(frame(raw), max_size=10)))
    side = Side(Connection(client_side=False))
    for piece in pieces(data, wire):
        side.receive(piece)
        for stream_id in data.draw(st.lists(STREAMS, max_size=2)):
            stream = side.connection.h2_connection.streams.get(stream_id)
            if side.error is None and stream is not None and not stream.closed:
                if data.draw(st.booleans()):
                    side.connection.cancel(stream_id)
                else:
                    side.connection.finish(stream_id, NotFoundError("no"), response_started=False)
                side.connection.forget(stream_id)
    if side.error is None:
        unread = sum(event.flow_controlled_length for event in side.events if isinstance(event, MessageReceived))
        held = sum(reader.uncredited for reader in side.connection.message_read_buffers.values())
        inbound = side.connection.h2_connection._inbound_flow_control_window_manager
        given_back = inbound.current_window_size + inbound._bytes_processed
        assert given_back + unread + held == inbound.max_window_size


@thoroughly
@given(st.lists(st.tuples(st.binary(max_size=300), st.booleans()), min_size=1, max_size=6), st.integers(16_384, 16_500))
def test_data_out_is_what_h2_would_send(messages: list[tuple[bytes, bool]], size: int) -> None:
    """Byte for byte, whatever the parts and the frame size; and the windows are what h2 makes of it."""
    sides = [Side(Connection(client_side=False)), Side(ByH2(client_side=False))]
    raw = RawClient()
    wire = raw.begin({4: 2**20, 5: size}) + raw.window(0, 2**20) + raw.headers(1, end=True)
    for side in sides:
        side.receive(wire)
        side.connection.start_response(1, "+proto")
        for number, (data, large) in enumerate(messages):
            parts = [data * 100 if large else data, b"", data]
            end = number + 1 == len(messages)
            side.connection.h2_connection.queue(side.connection.message_frames(1, parts, end_stream=end))
    ours, theirs = (side.connection.data_to_send() for side in sides)
    assert ours == theirs
    assert sides[0].state() == sides[1].state()


def test_more_than_the_window_is_not_sent() -> None:
    """Of the stream, and of the connection: h2's own error, and nothing on the wire."""
    side, raw = Side(Connection(client_side=False)), RawClient()
    side.receive(raw.begin({4: 100}) + raw.headers(1, end=True))
    side.connection.data_to_send()
    with pytest.raises(h2.exceptions.FlowControlError):
        side.connection.message_frames(1, [bytes(101)])
    assert side.connection.data_to_send() == b""


def test_a_frame_that_is_too_long_is_refused_at_its_header() -> None:
    """Nothing of it is waited for: nine bytes are enough."""
    side, raw = Side(Connection(client_side=False)), RawClient()
    side.receive(raw.begin() + raw.any_frame(0, 0, 1, b"")[:0] + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01")
    assert isinstance(side.error, h2.exceptions.FrameTooLargeError)


@pytest.mark.parametrize("size", [0, 1, 3000])
def test_a_header_block_without_end_is_not_collected(size: int) -> None:
    """By the number of its frames, and by its size."""
    side, raw = Side(Connection(client_side=False)), RawClient()
    side.receive(raw.begin() + raw.any_frame(1, 0, 1, b"\x00" * size))
    for _ in range(10):
        side.receive(raw.any_frame(CONTINUATION, 0, 1, b"\x00" * size))
    assert isinstance(side.error, h2.exceptions.DenialOfServiceError)


HEADERS = st.lists(
    st.tuples(st.sampled_from([b":status", b"a", b"b", b"grpc-status"]), st.binary(max_size=30)), max_size=5
)


@thoroughly
@given(st.lists(HEADERS | st.integers(0, 200), max_size=30))
def test_remembered_header_blocks_mean_the_same(steps: list[Any]) -> None:
    """Whatever was encoded before, and however the table was resized between: every decoder reads what was meant."""
    encoder, remembering, plain = RememberingEncoder(), RememberingDecoder(), h2.connection.Decoder()
    for step in steps:
        if isinstance(step, int):
            encoder.header_table_size = step
            continue
        for _ in range(3):
            block = encoder.encode(step)
            meant = [(name, value) for name, value in step]
            assert [tuple(h) for h in plain.decode(block, raw=True)] == meant
            assert [tuple(h) for h in remembering.decode(block, raw=True)] == meant
            assert remembering.header_table.dynamic_entries == plain.header_table.dynamic_entries


def test_a_size_that_is_set_twice_is_announced() -> None:
    """As by a peer that repeats its SETTINGS; hpack by itself then encodes for a table that the peer does not have."""
    encoder, decoder = RememberingEncoder(), h2.connection.Decoder()
    for size in (0, 39, 39):
        encoder.header_table_size = size
    for _ in range(2):
        assert [tuple(h) for h in decoder.decode(encoder.encode([(b"a", b"b")]), raw=True)] == [(b"a", b"b")]
    assert decoder.header_table_size == 39


def test_a_known_block_is_looked_up() -> None:
    """What is sent for the third time costs no encoding, nor decoding."""
    encoder, decoder = RememberingEncoder(), RememberingDecoder()
    for _ in range(2):
        decoder.decode(encoder.encode(CALL), raw=True)
    encoder.add = decoder._decode_indexed = None  # neither is needed any more
    assert [bytes(name).decode() for name, _ in decoder.decode(encoder.encode(CALL), raw=True)] == [n for n, _ in CALL]


def test_a_table_holds_no_more_than_its_entries() -> None:
    """hpack's decoder adds views of the block, each of which would keep all of it."""
    decoder = RememberingDecoder()
    decoder.decode(b"\x40\x01a\x01b", raw=True)
    assert [(type(n), type(v)) for n, v in decoder.header_table.dynamic_entries] == [(bytes, bytes)]


@given(st.lists(st.binary(max_size=100), max_size=5), st.data())
def test_messages_are_the_same_however_they_are_cut(messages: list[bytes], data: st.DataObject) -> None:
    """Prefixes and messages may end anywhere."""
    wire = b"".join(PREFIX.pack(False, len(message)) + message for message in messages)
    reader = MessageReader()
    got = [bytes(whole(m)) for piece in pieces(data, wire) for m, _ in reader.feed(piece, len(piece))]
    assert got == messages
    assert reader.uncredited == 0
