"""Short ways for the frames that unary calls are made of, past h2's frame objects, events and state machines.

:class:`ShortCallsH2` looks at each frame that came whole and is small. Those that stand in most calls (the headers of a
request that was judged before, a window update, DATA) change windows and states right here, exactly as h2 would; each
of these ways asks first whether h2 would do nothing else, and leaves the frame to h2 if it might:

- **HEADERS in**, of a new stream: the block was seen before, and means the same as then, since the dynamic table has
  not changed (RFC 7541, 2.3.2); the stream's id is odd and higher than all before (RFC 9113, 5.1.1), the limit is far.
- **WINDOW_UPDATE in**: of the connection, or of a stream that is open or half closed; the window stays below 2^31
  (RFC 9113, 6.9.1).
- **DATA in**, all of it within both windows, on a stream that is open for it (RFC 9113, 5.1 and 6.9).
- **HEADERS in**, of an answer: its headers, or its trailers, which end it (RFC 9113, 8.1), as they were judged before,
  on a stream that waits for them.
- **A whole request out**: headers and DATA of a new stream, whose id is the next odd one (RFC 9113, 5.1.1), within the
  streams (5.1.2), windows (6.9.1) and frame size (4.2) that the peer allows; its block is remembered.
- **A whole answer out**: headers, DATA and trailers (RFC 9113, 8.1) of a stream whose request has ended, within both
  windows (6.9.1), in blocks that are remembered. The stream is closed then (5.1).
- **A message out**, little, in one frame of DATA within both windows (6.9.1) and the frame size (4.2), on a stream that
  is open for it (5.1).
- **Credit** for a stream that the peer has ended is the connection's alone: a stream that is half closed (remote) is
  owed no window (RFC 9113, 5.1). Credit that neither window is to be opened for yet is added to what they are owed.

What h2's tables of states say of these transitions is asserted by a test, beside the property test of all ways.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import h2.config
import h2.events
from h2.connection import ConnectionState
from h2.stream import H2Stream, H2StreamStateMachine, StreamClosedBy, StreamState
from h2.windows import LARGEST_FLOW_CONTROL_WINDOW
from hyperframe.frame import WindowUpdateFrame

from api.rpc import frames
from api.rpc.codec import PREFIX, Buffer
from api.rpc.corrected_h2 import window_of
from api.rpc.events import AnswerBegun, AnswerEnded, Request, RequestReceived, WindowUpdated
from api.rpc.header_blocks import Memory
from api.rpc.http2 import FastH2, HeaderBlock, counts_content
from api.rpc.patience import BIG
from api.rpc.windows import Window

SHORT: Final = 4096
"""Bytes of the longest frame that may go a short way."""
_SENDING: Final = (StreamState.OPEN, StreamState.HALF_CLOSED_REMOTE)
_OPEN: Final = (StreamState.OPEN, StreamState.HALF_CLOSED_LOCAL, StreamState.HALF_CLOSED_REMOTE)


class ShortCallsH2(FastH2):
    """The short ways."""

    def __init__(self, config: h2.config.H2Configuration, max_frame: int, max_header_list: int) -> None:
        super().__init__(config, max_frame, max_header_list)
        self.highest_inbound_stream_id: int
        self.highest_outbound_stream_id: int
        self._judged: Memory[tuple[bytes, bool], Any] = Memory(self.decoder.header_table)
        self._open_state = ConnectionState.CLIENT_OPEN if config.client_side else ConnectionState.SERVER_OPEN
        self._short: dict[int, Callable[[int, int, memoryview, list[Any]], bool]] = {
            frames.DATA: self._short_data,
            frames.WINDOW_UPDATE: self._short_window,
            frames.HEADERS: self._short_answer if config.client_side else self._short_request,
        }

    # ---- in

    def _receive_at(self, view: memoryview, at: int, events: list[Any]) -> int:
        begin = at + frames.HEADER_SIZE
        if begin > len(view) or self._cutter.missing or self._block or self.state_machine.state is not self._open_state:
            return super()._receive_at(view, at, events)
        high, low, kind, flags, stream_id = frames.HEADER.unpack_from(view, at)
        end: int = begin + (high << 8 | low)
        if end - begin <= SHORT and end <= len(view):
            short = self._short.get(kind)
            if short is not None and short(stream_id, flags, view[begin:end], events):
                return end
        return super()._receive_at(view, at, events)

    def _receive_headers_frame(self, frame: Any) -> tuple[list[Any], list[Any]]:
        found, events = super()._receive_headers_frame(frame)
        if isinstance(frame, HeaderBlock):
            events[0].block = frame.data, "END_STREAM" in frame.flags  # for remember
        return found, events

    def remember(self, event: Any, judged: Any) -> None:
        """The headers of an event were judged: they mean this, and so does their block while the table stays."""
        if hasattr(event, "block"):
            self._judged.note(event.block, judged)

    def _short_answer(self, stream_id: int, flags: int, payload: memoryview, events: list[Any]) -> bool:
        stream = self.streams.get(stream_id)
        if stream is None or flags & ~frames.END_STREAM != frames.END_HEADERS:
            return False
        machine, ends = stream.state_machine, bool(flags & frames.END_STREAM)
        known = self._judged.recall((bytes(payload), ends))
        if (
            known is None
            or machine.state is not StreamState.HALF_CLOSED_LOCAL
            or bool(machine.headers_received) is not ends
            or machine.trailers_received
            or counts_content(stream)
        ):
            return False
        self.patience.hear_one()
        if ends:
            machine.trailers_received = True
            machine.state, machine.stream_closed_by = StreamState.CLOSED, StreamClosedBy.RECV_END_STREAM
            events.append(AnswerEnded(stream_id, known))
        else:
            machine.headers_received = True
            events.append(AnswerBegun(stream_id))
        return True

    def _short_request(self, stream_id: int, flags: int, payload: memoryview, events: list[Any]) -> bool:
        if flags != frames.END_HEADERS:
            return False
        request: Request | None = self._judged.recall((bytes(payload), False))
        if request is None or stream_id <= int(self.highest_inbound_stream_id) or not stream_id & 1:
            return False
        if len(self.streams) >= self._few or stream_id > frames.MAX_STREAM_ID:
            return False
        self.patience.hear_one()
        self.highest_inbound_stream_id = stream_id
        machine = H2StreamStateMachine(stream_id)
        machine.state, machine.client, machine.headers_received = StreamState.OPEN, False, True
        self.streams[stream_id] = self._stream(machine)
        events.append(RequestReceived(stream_id, request))
        return True

    def _stream(self, machine: H2StreamStateMachine) -> H2Stream:
        """A new stream as h2 makes it."""
        stream = H2Stream.__new__(H2Stream)
        stream.__dict__ = {
            "state_machine": machine,
            "stream_id": machine.stream_id,
            "max_inbound_frame_size": self.max_inbound_frame_size,
            "max_outbound_frame_size": self.max_outbound_frame_size,
            "request_method": None,
            "outbound_flow_control_window": self.remote_settings.initial_window_size,
            "_inbound_window_manager": Window(self.local_settings.initial_window_size),
            "_expected_content_length": None,
            "_actual_content_length": 0,
            "_authority": None,
            "config": self.config,
        }
        return stream

    def _short_window(self, stream_id: int, flags: int, payload: memoryview, events: list[Any]) -> bool:
        increment = int.from_bytes(payload, "big")
        if len(payload) != 4 or not 0 < increment <= LARGEST_FLOW_CONTROL_WINDOW:
            return False
        of = self.streams.get(stream_id) if stream_id else self
        if of is None or (stream_id and of.state_machine.state not in _OPEN):
            return False
        window = of.outbound_flow_control_window + increment
        if window > LARGEST_FLOW_CONTROL_WINDOW:
            return False
        self.patience.hear_one()
        of.outbound_flow_control_window = window
        events.append(WindowUpdated(stream_id, increment))
        return True

    def _short_data(self, stream_id: int, flags: int, payload: memoryview, events: list[Any]) -> bool:
        stream = self.streams.get(stream_id)
        size = len(payload)
        if stream is None or flags & ~frames.END_STREAM or not (flags or size):
            return False
        machine = stream.state_machine
        window = window_of(stream)
        own_window = self._inbound_flow_control_window_manager
        ends_it = machine.state is not StreamState.OPEN  # END_STREAM would, as our side has ended
        if (
            (ends_it and (flags or machine.state is not StreamState.HALF_CLOSED_LOCAL))
            or counts_content(stream)
            or size > min(window.current_window_size, own_window.current_window_size)
        ):
            return False
        own_window.current_window_size -= size
        window.current_window_size -= size
        event = h2.events.DataReceived()
        event.stream_id, event.data, event.flow_controlled_length = stream_id, payload, size
        events.append(event)
        if flags:
            machine.state = StreamState.HALF_CLOSED_REMOTE
            ended = h2.events.StreamEnded()
            ended.stream_id = stream_id
            events.append(ended)
        return True

    def acknowledge_received_data(self, acknowledged_size: int, stream_id: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is None or stream.state_machine.state is not StreamState.HALF_CLOSED_REMOTE:
            own = self._inbound_flow_control_window_manager
            if (
                stream is not None
                and stream.open
                and not self.widest
                and own.may_wait(acknowledged_size)
                and (window := window_of(stream)).may_wait(acknowledged_size)
            ):
                own.owe(acknowledged_size)
                window.owe(acknowledged_size)
            else:
                super().acknowledge_received_data(acknowledged_size, stream_id)
            return
        # The stream's own window is of no use any more: the peer has ended it (RFC 9113, 5.1).
        increment = self._inbound_flow_control_window_manager.process_bytes(acknowledged_size)
        if increment:
            frame = WindowUpdateFrame(0)
            frame.window_increment = increment
            self._prepare_for_sending([frame])

    # ---- out

    def request(self, headers: Any, message: bytes) -> int:
        """Queue a whole request; its stream. 0, and nothing is done: it has to go h2's way."""
        stream_id = (int(self.highest_outbound_stream_id) or -1) + 2
        size = PREFIX.size + len(message)
        window = self.remote_settings.initial_window_size
        if (
            self.state_machine.state is not self._open_state
            or stream_id > frames.MAX_STREAM_ID
            or len(self.streams) >= self._few
            or size > min(self.outbound_flow_control_window, window, self.max_outbound_frame_size)
        ):
            return 0
        block = self.encoder.known(headers)
        if block is None:
            return 0
        self._data_to_send += b"".join(
            (
                frames.header(len(block), frames.HEADERS, frames.END_HEADERS, stream_id),
                block,
                frames.header(size, frames.DATA, frames.END_STREAM, stream_id),
                PREFIX.pack(False, len(message)),
                message,
            )
        )
        self.patience.speak(BIG)
        self.patience.speak(size)
        machine = H2StreamStateMachine(stream_id)
        machine.state, machine.client, machine.headers_sent = StreamState.HALF_CLOSED_LOCAL, True, True
        stream = self.streams[stream_id] = self._stream(machine)
        self.highest_outbound_stream_id = stream_id
        self.outbound_flow_control_window -= size
        stream.outbound_flow_control_window -= size
        return stream_id

    def say(self, stream_id: int, parts: Sequence[Buffer], size: int) -> bytes | None:
        """One message, behind what was to be sent before it; to be written now. None, and nothing is done: it has to go
        h2's way."""
        stream = self.streams.get(stream_id)
        total = PREFIX.size + size
        if (
            stream is None
            or stream.state_machine.state not in _SENDING
            or self.state_machine.state is not self._open_state
            or total > min(self.outbound_flow_control_window, stream.outbound_flow_control_window)
            or total > self.max_outbound_frame_size
        ):
            return None
        self.patience.speak(total)
        self.outbound_flow_control_window -= total
        stream.outbound_flow_control_window -= total
        head = frames.header(total, frames.DATA, 0, stream_id)
        return b"".join((self.data_to_send(), head, PREFIX.pack(False, size), *parts))

    def respond(self, stream_id: int, headers: Any, message: bytes, trailers: Any) -> bool:
        """Queue a whole answer. False, and nothing is done: it has to go h2's way."""
        stream = self.streams.get(stream_id)
        size = PREFIX.size + len(message)
        if (
            stream is None
            or stream.state_machine.state is not StreamState.HALF_CLOSED_REMOTE
            or stream.state_machine.headers_sent
            or self.state_machine.state is not self._open_state
            or size > min(self.outbound_flow_control_window, stream.outbound_flow_control_window)
            or size > self.max_outbound_frame_size
        ):
            return False
        first, last = self.encoder.known(headers), self.encoder.known(trailers)
        if first is None or last is None:
            return False
        self._data_to_send += b"".join(
            (
                frames.header(len(first), frames.HEADERS, frames.END_HEADERS, stream_id),
                first,
                frames.header(size, frames.DATA, 0, stream_id),
                PREFIX.pack(False, len(message)),
                message,
                frames.header(len(last), frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream_id),
                last,
            )
        )
        self.patience.speak(BIG)
        self.patience.speak(size)
        self.patience.speak(BIG)
        self.outbound_flow_control_window -= size
        stream.outbound_flow_control_window -= size
        machine = stream.state_machine
        machine.headers_sent = machine.trailers_sent = True
        machine.state, machine.stream_closed_by = StreamState.CLOSED, StreamClosedBy.SEND_END_STREAM
        return True
