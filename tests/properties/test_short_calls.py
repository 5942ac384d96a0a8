"""The short ways of ``api.rpc.short_calls`` against h2's own: the same bytes in, the same calls, the same bytes out."""

from __future__ import annotations

from typing import Any

import h2.exceptions
import pytest
from h2.connection import ConnectionInputs, ConnectionState, H2ConnectionStateMachine
from h2.stream import H2StreamStateMachine, StreamClosedBy, StreamInputs, StreamState, _transitions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.errors import NotFoundError
from api.rpc import frames
from api.rpc.codec import PREFIX, whole
from api.rpc.connection import Connection
from api.rpc.corrected_h2 import CorrectedH2, window_of
from api.rpc.events import MessageReceived, RequestEnded, ResponseEnded, ResponseReceived
from api.rpc.header_blocks import RememberingEncoder
from api.rpc.headers import Headers, request_headers
from api.rpc.short_calls import ShortCallsH2
from api.rpc.windows import Windows
from tests.properties.test_http2 import ByH2, Side, frame, hostile, pieces, without_window_updates
from tests.support.wire import CALL, RawClient, RawServer

thoroughly = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
PATHS = ("/a.B/C", "/a.B/D")
ODD = st.integers(0, 6).map(lambda n: 2 * n + 1)
WHOLE = st.binary(max_size=20).map(lambda m: PREFIX.pack(False, len(m)) + m)
SETTINGS = st.dictionaries(st.sampled_from([1, 3, 4]), st.integers(0, 100_000), max_size=3)


class ByCorrectedH2(ByH2):
    """As :class:`ByH2`, and with hpack's mistakes corrected (``api.rpc.header_blocks``), which is tested by itself."""

    @staticmethod
    def _make_h2(*, client_side: bool) -> CorrectedH2:
        made = ByH2._make_h2(client_side=client_side)
        made.encoder = RememberingEncoder()
        return made


def both(*, client_side: bool) -> list[Side]:
    return [Side(Connection(client_side=client_side)), Side(ByCorrectedH2(client_side=client_side))]


def whole_state(side: Side) -> dict[str, Any]:
    made = side.connection.h2_connection
    return {
        **side.state(),
        "written table": list(made.encoder.header_table.dynamic_entries),
        "highest": (made.highest_inbound_stream_id, made.highest_outbound_stream_id),
        "machines": {
            stream_id: {name: bool(value) for name, value in vars(stream.state_machine).items() if "s_" in name}
            for stream_id, stream in made.streams.items()
            if not stream.closed
        },
        "closed": {
            stream_id: StreamClosedBy.SEND_RST_STREAM
            in (made._closed_streams.get(stream_id), getattr(made.streams.get(stream_id), "closed_by", None))
            for stream_id in range(1, 30, 2)
        },
    }


def same(sides: list[Side]) -> None:
    """They end alike, or have made the same of everything, and have the same to say."""
    ours, theirs = sides
    assert type(ours.error) is type(theirs.error)
    if ours.error is None:
        known = [[fact for fact in side.facts() if "ResponseReceived" not in str(fact)] for side in sides]
        assert known[0] == known[1]
        assert whole_state(ours) == whole_state(theirs)
        assert without_window_updates(ours.connection.data_to_send()) == without_window_updates(
            theirs.connection.data_to_send()
        )


@st.composite
def calls(draw: st.DrawFn, raw: RawClient) -> bytes:
    """What most calls are made of, and now and then something else."""
    # Not by one_of: Hypothesis drops branches that it takes for equal, and which ones depends on what it has cached.
    match draw(st.sampled_from(("call", "call", "headers", "data", "data", "window", "window", "other", "other"))):
        case "call":
            return raw.call(draw(ODD))
        case "headers":
            return raw.headers(draw(ODD))
        case "data":
            return raw.data(draw(ODD), draw(WHOLE), end=draw(st.booleans()))
        case "window":
            return raw.window(draw(st.just(0) | ODD), draw(st.integers(1, 100_000)))
        case _:
            return draw(frame(raw))


def say(connection: Connection, stream_id: int, message: bytes) -> None:
    """One message, at once if it goes; else in the usual way, if the window allows it."""
    made = connection.h2_connection
    wire = made.say(stream_id, (message,), len(message))
    if wire is not None:
        assert isinstance(made, ShortCallsH2)
        made.queue((wire,))
    elif connection.send_window(stream_id) >= PREFIX.size + len(message):
        assert not isinstance(made, ShortCallsH2)  # nothing else speaks against it
        parts = (PREFIX.pack(False, len(message)), message)
        made.queue(connection.message_frames(stream_id, parts, end_stream=False))


def act(data: st.DataObject, sides: list[Side]) -> None:
    """Do to both what a server does to a request that is whole, or gives up."""
    ended = sorted({event.stream_id for event in sides[0].events if isinstance(event, RequestEnded)})
    for stream_id in ended:
        what = data.draw(st.sampled_from(("respond", "say", "credit", "error", "cancel", "nothing")))
        message = data.draw(st.binary(max_size=40))
        for side in sides:
            connection = side.connection
            stream = connection.h2_connection.streams.get(stream_id)
            if stream is None or stream.closed:
                continue
            if what == "respond" and connection.send_window(stream_id) > 50:
                connection.respond(stream_id, message)
            elif what == "say":
                say(connection, stream_id, message)
            elif what == "credit":
                connection.acknowledge_received_data(stream_id, 1)
            elif what == "error":
                connection.finish(stream_id, NotFoundError("no"), response_started=False)
            elif what == "cancel":
                connection.cancel(stream_id)
            if what not in ("say", "credit", "nothing"):
                connection.forget(stream_id)


@thoroughly
@given(st.data())
def test_calls_to_a_server_are_the_same(data: st.DataObject) -> None:
    """However they are cut, answered or given up between: events, windows, states, tables, all bytes of answers."""
    raw = RawClient()
    begin = raw.begin(data.draw(st.sampled_from(({}, {4: 60}, {4: 2**20, 5: 2**15}, {1: 0}, {3: 0})))) + raw.call(1)
    wire = begin + raw.call(3) + b"".join(data.draw(st.lists(calls(raw), max_size=15)))
    sides = both(client_side=False)
    for piece in pieces(data, wire):
        for side in sides:
            side.receive(piece)
        if sides[0].error is None and sides[1].error is None:
            act(data, sides)
    same(sides)


@thoroughly
@given(st.data())
def test_a_hostile_client_is_met_alike(data: st.DataObject) -> None:
    """Any frame at all between the usual ones."""
    raw = RawClient()
    wire = raw.begin() + raw.call(1) + raw.call(3)
    for _ in range(data.draw(st.integers(0, 12))):
        wire += data.draw(hostile(raw)) if data.draw(st.booleans()) else data.draw(calls(raw))
    sides = both(client_side=False)
    for piece in pieces(data, wire):
        for side in sides:
            side.receive(piece)
    same(sides)


@st.composite
def answers(draw: st.DrawFn, raw: RawServer) -> bytes:
    """What answers are made of, and now and then something else."""
    kinds = ("answer", "answer", "headers", "data", "trailers", "failure", "other headers", "other data", "window")
    match draw(st.sampled_from((*kinds, "reset", "settings", "any"))):
        case "answer":
            return raw.answer(draw(ODD), draw(st.binary(max_size=9)))
        case "headers":
            return raw.headers(draw(ODD))
        case "data":
            return raw.data(draw(ODD), draw(WHOLE))
        case "trailers":
            return raw.trailers(draw(ODD))
        case "failure":
            return raw.trailers(draw(ODD), 5)
        case "other headers":
            return raw.headers(draw(ODD), end=True)
        case "other data":
            return raw.data(draw(ODD), draw(st.binary(max_size=9)), end=draw(st.booleans()))
        case "window":
            return raw.window(draw(st.just(0) | ODD), draw(st.integers(1, 2**31 - 1)))
        case "reset":
            return raw.reset(draw(ODD))
        case "settings":
            return raw.settings(draw(SETTINGS))
        case _:
            kind, flags, stream_id = (draw(st.integers(0, most)) for most in (12, 255, 14))
            return raw.any_frame(kind, flags, stream_id, draw(st.binary(max_size=30)))


def ask(side: Side, headers: Headers, message: bytes) -> None:
    """A whole request, by whatever way there is."""
    connection = side.connection
    if not connection.request(headers, message):
        stream_id = connection.begin_request(headers)
        if connection.send_window(stream_id) < PREFIX.size + len(message):
            connection.cancel(stream_id)
            return
        parts = (PREFIX.pack(False, len(message)), message)
        connection.h2_connection.queue(connection.message_frames(stream_id, parts, end_stream=True))


@thoroughly
@given(st.data())
def test_calls_of_a_client_are_the_same(data: st.DataObject) -> None:
    """Requests byte for byte, and what comes of the answers, good and bad."""
    raw, sides = RawServer(), both(client_side=True)
    begin = raw.settings(data.draw(st.sampled_from(({}, {4: 30}, {4: 2**20, 5: 2**15}, {3: 2}, {1: 0}))))
    for side in sides:
        side.receive(begin + raw.settings({}, ack=True))
    for _ in range(data.draw(st.integers(1, 6))):
        for path in data.draw(st.lists(st.sampled_from(PATHS), max_size=4)):
            headers = request_headers(path, "localhost", timeout=data.draw(st.none() | st.integers(1, 3)))
            message = data.draw(st.binary(max_size=30))
            if all(side.error is None for side in sides):
                refused = []
                for side in sides:
                    try:
                        ask(side, headers, message)
                    except h2.exceptions.ProtocolError as exc:
                        refused.append(type(exc))
                assert len(refused) in (0, 2)
        wire = b"".join(data.draw(st.lists(answers(raw), max_size=5)))
        for piece in pieces(data, wire):
            for side in sides:
                side.receive(piece)
        same(sides)


# ---- that they are short


def test_a_known_call_makes_no_frame_and_no_event_of_h2_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the third on: h2 receives no frame, encodes and sends nothing, and every stream is closed all the same."""
    client, server = (Connection(client_side=side) for side in (True, False))
    for connection in (client, server):
        connection.initiate_connection()
    headers = request_headers("/a.B/C", "localhost")

    def call() -> None:
        if not client.request(headers, b"question"):
            stream_id = client.begin_request(headers)
            parts = (PREFIX.pack(False, 8), b"question")
            client.h2_connection.queue(client.message_frames(stream_id, parts, end_stream=True))
        asked = [e for e in server.receive_data(client.data_to_send()) if isinstance(e, MessageReceived)]
        assert [whole(event.data) for event in asked] == [b"question"]
        server.respond(asked[0].stream_id, b"answer")
        server.forget(asked[0].stream_id)
        heard = client.receive_data(server.data_to_send())
        assert [whole(event.data) for event in heard if isinstance(event, MessageReceived)] == [b"answer"]
        assert isinstance(heard[-1], ResponseEnded)
        assert heard[-1].error is None
        assert not isinstance(heard[0], ResponseReceived) or heard[0].stream_id == asked[0].stream_id
        client.forget(asked[0].stream_id)

    for _ in range(3):
        call()
    for name in ("_receive_frame", "send_headers", "data_frames", "_begin_new_stream"):
        monkeypatch.setattr(ShortCallsH2, name, None, raising=False)
    for _ in range(1000):
        call()
    for connection in (client, server):
        assert connection.h2_connection.streams == {}
        assert connection.message_read_buffers == {}


@thoroughly
@given(st.data(), st.integers(100, 3000), st.integers(1, 4000), st.sampled_from([0, 5000]))
def test_credit_comes_back_when_h2_gives_it_back(
    data: st.DataObject, stream: int, connection: int, widest: int
) -> None:
    """Whatever was sent on streams that are open, however much of it was taken, and when: the same updates at the same
    moments, and the same windows."""
    windows = Windows(stream, connection, widest)
    sides = [kind(client_side=False, windows=windows) for kind in (Connection, ByCorrectedH2)]
    raw = RawClient()
    begin = raw.begin() + raw.headers(1) + raw.headers(3)
    for side in sides:
        side.initiate_connection()
        side.receive_data(begin)
    untaken = {1: 0, 3: 0}
    for _ in range(data.draw(st.integers(1, 30))):
        stream_id = data.draw(st.sampled_from([1, 3]))
        if data.draw(st.booleans()):
            of_stream = sides[0].h2_connection.streams[stream_id].inbound_flow_control_window
            room = min(of_stream, sides[0].h2_connection.inbound_flow_control_window) - PREFIX.size
            if room <= 0:
                continue
            message = bytes(data.draw(st.just(room) | st.integers(0, room)))  # shut, or not
            wire = raw.data(stream_id, PREFIX.pack(False, len(message)) + message)
            for side in sides:
                side.receive_data(wire)
            untaken[stream_id] += PREFIX.size + len(message)
        else:
            taken = data.draw(st.integers(0, untaken[stream_id]))
            untaken[stream_id] -= taken
            for side in sides:
                side.acknowledge_received_data(stream_id, taken)
        ours, theirs = [(side.data_to_send(), owed(side.h2_connection)) for side in sides]
        assert ours == theirs


def owed(made: CorrectedH2) -> list[tuple[int, int]]:
    """Of the connection and its streams: how far each window is open, and how much was taken and not given back."""
    all_ = [made._inbound_flow_control_window_manager, *map(window_of, made.streams.values())]
    return [(window.current_window_size, window._bytes_processed) for window in all_]


def test_streams_beyond_the_limit_go_the_long_way() -> None:
    """Where somebody has to count, h2 does, and refuses as it always did."""
    sides = both(client_side=False)
    for side in sides:
        raw = RawClient()
        side.receive(raw.begin() + b"".join(raw.headers(stream_id) for stream_id in range(1, 2 * 1026, 2)))
    same(sides)
    assert isinstance(sides[0].error, h2.exceptions.TooManyStreamsError)


# ---- what h2's tables say of what is done without them


@pytest.mark.parametrize("state", [ConnectionState.CLIENT_OPEN, ConnectionState.SERVER_OPEN])
def test_the_connection_stays_as_it_is(state: ConnectionState) -> None:
    """Headers, data and window updates change nothing of one that is open."""
    inputs = {"SEND_HEADERS", "SEND_DATA", "RECV_HEADERS", "RECV_DATA", "RECV_WINDOW_UPDATE"}
    for name in inputs:
        assert H2ConnectionStateMachine._transitions[state, ConnectionInputs[name]] == (None, state)


def test_h2_goes_where_the_short_ways_go() -> None:
    """Each way's end is where h2's own machine comes to, with what it remembers of it."""
    server = H2StreamStateMachine(1)
    for step in ("RECV_HEADERS", "RECV_WINDOW_UPDATE", "RECV_DATA"):
        server.process_input(StreamInputs[step])
        assert (server.state, server.client, server.headers_received) == (StreamState.OPEN, False, True)
    server.process_input(StreamInputs.RECV_END_STREAM)
    assert server.state is StreamState.HALF_CLOSED_REMOTE
    for step in ("RECV_WINDOW_UPDATE", "SEND_HEADERS", "SEND_DATA", "SEND_HEADERS", "SEND_END_STREAM"):
        server.process_input(StreamInputs[step])
    assert (server.state, server.stream_closed_by) == (StreamState.CLOSED, StreamClosedBy.SEND_END_STREAM)
    assert (server.headers_sent, server.trailers_sent) == (True, True)

    client = H2StreamStateMachine(1)
    for step in ("SEND_HEADERS", "SEND_DATA", "SEND_END_STREAM"):
        client.process_input(StreamInputs[step])
    assert (client.state, client.client, client.headers_sent) == (StreamState.HALF_CLOSED_LOCAL, True, True)
    for step in ("RECV_HEADERS", "RECV_DATA", "RECV_WINDOW_UPDATE", "RECV_HEADERS", "RECV_END_STREAM"):
        client.process_input(StreamInputs[step])
    assert (client.state, client.stream_closed_by) == (StreamState.CLOSED, StreamClosedBy.RECV_END_STREAM)
    assert (client.headers_received, client.trailers_received) == (True, True)


def test_a_half_closed_stream_takes_window_updates() -> None:
    """On either side; and nothing else comes of it."""
    for state in (StreamState.OPEN, StreamState.HALF_CLOSED_LOCAL, StreamState.HALF_CLOSED_REMOTE):
        assert _transitions[state, StreamInputs.RECV_WINDOW_UPDATE][1] is state


def test_the_frame_kinds_are_those() -> None:
    """What goes a short way: nothing else is looked at."""
    made = Connection(client_side=False).h2_connection
    assert set(made._short) == {frames.DATA, frames.HEADERS, frames.WINDOW_UPDATE}
    assert dict(CALL)[":path"].count("/") == 2
