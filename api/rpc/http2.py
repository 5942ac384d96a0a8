"""Short ways for the frames that calls are made of.

:class:`FastH2` takes four short ways past h2's frame objects and events; in each of them h2's own state machines and
windows say what is allowed and keep count:

- **DATA in**: a frame without padding, on a stream where h2 would make nothing but DataReceived of it, is given in
  pieces as they come. Flow control counts whole frames (RFC 9113, 5.2 and 6.9), so the whole frame is counted when
  its header is there; END_STREAM counts when its last byte is.
- **DATA out**: several frames are counted at once (the state of a stream is the same after one frame as after many,
  RFC 9113, 5.1) and never joined with their payload.
- **HEADERS in**: a frame with neither padding nor priority that is a whole block (RFC 9113, 6.2) is handed to h2 as the
  block that it is.
- **HEADERS out**: ours are well-formed (RFC 9113, 8.2), so they are not looked through; blocks are remembered
  (``api.rpc.header_blocks``) and written behind a header of one frame, if they fit in one.

Every other frame goes h2's own way. A property test holds all of it against :class:`CorrectedH2`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import h2.config
import h2.events
import h2.exceptions
from h2.connection import AllowedStreamIDs, ConnectionInputs
from h2.errors import ErrorCodes
from h2.stream import StreamInputs, StreamState
from hyperframe.exceptions import InvalidFrameError, InvalidPaddingError
from hyperframe.frame import ContinuationFrame, Frame, HeadersFrame, PushPromiseFrame

from api.rpc import frames
from api.rpc.codec import Buffer
from api.rpc.corrected_h2 import CorrectedH2
from api.rpc.frames import FrameCutter, Piece, RawFrame
from api.rpc.header_blocks import RememberingDecoder, RememberingEncoder
from api.rpc.patience import BIG

MAX_HEADER_BLOCK: Final = 16 * 1024
"""Bytes of a header block as it comes, all its frames together."""
MAX_HEADER_FRAMES: Final = 8

_WHOLE_BLOCK: Final = {
    frames.END_HEADERS: frozenset({"END_HEADERS"}),
    frames.END_HEADERS | frames.END_STREAM: frozenset({"END_HEADERS", "END_STREAM"}),
}
_RECEIVING: Final = (StreamState.OPEN, StreamState.HALF_CLOSED_LOCAL)


def counts_content(stream: Any) -> bool:
    """h2 holds what comes on this stream of its against a content-length."""
    return stream._expected_content_length is not None  # noqa: SLF001 # h2 tells nobody


@dataclass(slots=True)
class HeaderBlock:
    """What h2 asks of a HEADERS frame."""

    stream_id: int
    data: bytes
    flags: frozenset[str]


class FastH2(CorrectedH2):
    """The short ways."""

    def __init__(self, config: h2.config.H2Configuration, max_frame: int, max_header_list: int) -> None:
        super().__init__(config)
        self.encoder = RememberingEncoder()
        self.decoder = RememberingDecoder()
        self.decoder.max_header_list_size = max_header_list
        self._frame_dispatch_table[HeaderBlock] = self._receive_headers_frame
        self._block: list[Any] = []  # the frames of a header block that goes on
        self._cutter = FrameCutter(
            expects_preface=not config.client_side, max_size=max_frame, in_pieces=self._takes_pieces
        )

    def _open_streams(self, remainder: int) -> int:
        """h2 asks this to keep its limits (RFC 9113, 5.1.2), and looks at all streams each time; far from any limit,
        all may be open: there are never fewer than those that count."""
        count = len(self.streams)
        return count if count < self._few else int(super()._open_streams(remainder))

    @property
    def _few(self) -> int:
        """Streams that may be there before anybody has to count those that are open."""
        limit = self.local_settings.max_concurrent_streams
        # What a client takes is no limit for a server, which opens none; some clients say 0.
        return int(min(limit, self.remote_settings.max_concurrent_streams) if self.config.client_side else limit)

    # ---- in

    @property
    def data_left(self) -> int:
        """Bytes that are still to come of the DATA frame at hand, if there is one."""
        return self._cutter.left

    def receive_data(self, data: bytes | memoryview) -> list[Any]:
        """As h2's, but the data of a DataReceived are a view that is good until the next call."""
        return self.receive_turn(memoryview(data), len(data))[0]

    def receive_turn(self, view: memoryview, most: int) -> tuple[list[Any], int]:
        """As :meth:`receive_data`, for about so many bytes of what has come, from its front: what begins after them is
        left, but for the rest of a DATA frame.

        Returns:
            events, and the number of bytes that were taken.
        """
        events: list[Any] = []
        at, most = 0, min(most, len(view))
        try:
            while at < most:
                at = self._receive_at(view, at, events)
        except InvalidPaddingError:
            self._terminate_connection(ErrorCodes.PROTOCOL_ERROR)
            raise h2.exceptions.ProtocolError("Received frame with invalid padding.") from None
        except h2.exceptions.ProtocolError as exc:
            self._terminate_connection(exc.error_code)
            raise
        return events, at

    def _receive_at(self, view: memoryview, at: int, events: list[Any]) -> int:
        """Take what is left of the frame at hand, or the next one, as far as it is there; where the next thing
        begins."""
        size = self._cutter.missing
        if not size:
            size = frames.HEADER_SIZE
            if len(view) - at >= size:
                high, low, *_ = frames.HEADER.unpack_from(view, at)
                size += high << 8 | low
        for found in self._cutter.feed(view[at : at + size]):
            if isinstance(found, Piece):
                if found.first == 0:
                    self.patience.hear(frames.DATA, frames.END_STREAM if found.ends else 0, 0)
                self._receive_piece(found, events)
            else:
                self.patience.hear(found.kind, found.flags, len(found.payload))
                self._receive_raw(found, events)
        return min(at + size, len(view))

    def _receive_raw(self, raw: RawFrame, events: list[Any]) -> None:
        """h2's own way, from its parser on; a header block that is whole, and nothing else, needs no parser."""
        if raw.kind == frames.HEADERS and raw.flags in _WHOLE_BLOCK and raw.stream_id and not self._block:
            if len(raw.payload) > MAX_HEADER_BLOCK:
                raise h2.exceptions.DenialOfServiceError("a header block is too long")
            events += self._receive_frame(HeaderBlock(raw.stream_id, bytes(raw.payload), _WHOLE_BLOCK[raw.flags]))
            return
        head = frames.header(len(raw.payload), raw.kind, raw.flags, raw.stream_id)
        try:
            frame, _ = Frame.parse_frame_header(head)
        except ValueError as exc:
            raise h2.exceptions.ProtocolError(f"Invalid frame header received: {exc}") from exc
        try:
            frame.parse_body(raw.payload)
        except InvalidFrameError as exc:
            raise h2.exceptions.FrameDataMissingError("Frame data missing or invalid") from exc
        whole = self._joined(frame)
        if whole is not None:
            events += self._receive_frame(whole)

    def _joined(self, frame: Frame) -> Frame | None:
        """The frame; for one of a header block that has several: None, or all of the block (RFC 9113, 6.10)."""
        block = self._block
        if block and not (isinstance(frame, ContinuationFrame) and frame.stream_id == block[0].stream_id):
            raise h2.exceptions.ProtocolError("Invalid frame during header block.")
        if not block and not isinstance(frame, HeadersFrame | PushPromiseFrame):
            return frame
        block.append(frame)
        # A block that goes on and on is not collected (RFC 9113, 10.5.1).
        if len(block) > MAX_HEADER_FRAMES or sum(len(part.data) for part in block) > MAX_HEADER_BLOCK:
            raise h2.exceptions.DenialOfServiceError("a header block is too long")
        if "END_HEADERS" not in frame.flags:
            return None
        whole = block[0]
        whole.data = b"".join([part.data for part in block])
        self._block = []
        return whole

    def _takes_pieces(self, stream_id: int, length: int) -> bool:
        """h2 would make DataReceived of such a frame, and nothing else whatever is in it."""
        stream = self.streams.get(stream_id)
        return (
            stream is not None
            and stream.state_machine.state in _RECEIVING
            and not counts_content(stream)
            and length <= stream.inbound_flow_control_window
            and length <= self.inbound_flow_control_window
            and not self._block
        )

    def _receive_piece(self, piece: Piece, events: list[Any]) -> None:
        stream = self.streams.get(piece.stream_id)
        if piece.first >= 0:
            self.state_machine.process_input(ConnectionInputs.RECV_DATA)
            self._inbound_flow_control_window_manager.window_consumed(piece.first)
            stream.receive_data(b"", False, piece.first)  # h2's signature
        event = h2.events.DataReceived()
        event.stream_id = piece.stream_id
        event.data = piece.data
        event.flow_controlled_length = len(piece.data)
        events.append(event)
        # Between its first byte and its last the stream may have been given up here.
        if piece.last and piece.ends and stream is not None and stream.state_machine.state in _RECEIVING:
            events += stream.state_machine.process_input(StreamInputs.RECV_END_STREAM)

    # ---- out

    def send_headers(self, stream_id: int, headers: Any, end_stream: bool = False) -> None:  # h2's signature
        stream = self.streams.get(stream_id)
        if stream is None and not self.config.client_side:
            raise h2.exceptions.StreamClosedError(stream_id)  # a server opens none
        if stream is None and self.open_outbound_streams >= self.remote_settings.max_concurrent_streams:
            raise h2.exceptions.TooManyStreamsError("the peer takes no further stream")
        self.state_machine.process_input(ConnectionInputs.SEND_HEADERS)
        if stream is None:
            stream = self._begin_new_stream(stream_id, AllowedStreamIDs.ODD)
        machine = stream.state_machine
        machine.process_input(StreamInputs.SEND_HEADERS)
        if end_stream:
            machine.process_input(StreamInputs.SEND_END_STREAM)
        elif machine.trailers_sent:
            raise h2.exceptions.ProtocolError("Trailers must have END_STREAM set.")
        block = self.encoder.encode(headers)
        self.patience.speak(BIG)
        size = self.max_outbound_frame_size
        flags = frames.END_STREAM if end_stream else 0
        kind = frames.HEADERS
        for start in range(0, len(block), size):
            part = block[start : start + size]
            if start + size >= len(block):
                flags |= frames.END_HEADERS
            self._data_to_send += frames.header(len(part), kind, flags, stream_id) + part
            kind, flags = frames.CONTINUATION, 0

    def data_frames(self, stream_id: int, parts: Sequence[Buffer], *, end_stream: bool) -> list[Buffer]:
        total = sum(map(len, parts))
        # An end alone is not counted (RFC 9113, 6.9.1), also when the peer has made its window negative.
        if total and total > self.local_flow_control_window(stream_id):
            raise h2.exceptions.FlowControlError(f"cannot send {total} bytes now")
        stream = self.streams[stream_id]
        self.state_machine.process_input(ConnectionInputs.SEND_DATA)
        stream.state_machine.process_input(StreamInputs.SEND_DATA)
        self.patience.speak(total)
        self.outbound_flow_control_window -= total
        stream.outbound_flow_control_window -= total
        if end_stream:
            stream.state_machine.process_input(StreamInputs.SEND_END_STREAM)
        before = self.data_to_send()
        wire: list[Buffer] = [before] if before else []
        _cut(wire, stream_id, parts, total, self.max_outbound_frame_size, end_stream=end_stream)
        return wire


def _cut(
    wire: list[Buffer], stream_id: int, parts: Sequence[Buffer], total: int, size: int, *, end_stream: bool
) -> None:
    """Append the parts, with the header of a DATA frame wherever one begins."""
    if total <= size:  # one frame, as most small messages
        wire.append(frames.header(total, frames.DATA, frames.END_STREAM if end_stream else 0, stream_id))
        wire += [part for part in parts if part]
        return
    left, room = total, 0  # bytes of the message, and of the frame at hand
    for part in parts:
        start = 0
        while start < len(part):
            if not room:
                room = min(left, size)
                flags = frames.END_STREAM if end_stream and room == left else 0
                wire.append(frames.header(room, frames.DATA, flags, stream_id))
            end = min(start + room, len(part))
            wire.append(part if end - start == len(part) else memoryview(part)[start:end])
            room -= end - start
            left -= end - start
            start = end
