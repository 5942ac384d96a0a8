"""The protocol, without I/O: purerpc's gRPC connection with its gaps closed by subclassing.

What is added to purerpc 0.8.0 (``api.rpc.corrected_h2`` and ``http2`` have what is added to h2 3.2.0 below it):

- an error in one stream is an event of that stream (``StreamFailed``), not an exception that ends the connection;
- RST_STREAM, GOAWAY and PING answers become events;
- headers are checked at the border (``api.rpc.headers``), messages cut by ``api.rpc.codec``;
- the settings announced are limits that we can keep, not an invitation;
- ``grpc-status-details-bin`` goes out and comes in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import h2.config
import h2.events
import h2.exceptions
import h2.settings
from h2.errors import ErrorCodes
from purerpc.grpclib.config import GRPCConfiguration
from purerpc.grpclib.connection import GRPCConnection
from purerpc.grpclib.exceptions import ProtocolError
from purerpc.grpclib.headers import HeaderDict

from api.errors import Code, RpcError, UnknownError
from api.rpc import headers
from api.rpc.codec import MAX_MESSAGE, PREFIX, Buffer, MessageReader
from api.rpc.corrected_h2 import CorrectedH2
from api.rpc.events import (
    AnswerBegun,
    AnswerEnded,
    GoAway,
    MessageReceived,
    Pong,
    RequestEnded,
    RequestReceived,
    ResponseEnded,
    ResponseReceived,
    StreamFailed,
    StreamReset,
    WindowUpdated,
)
from api.rpc.short_calls import ShortCallsH2
from api.rpc.status import OK, error_from, percent, trailers_of
from api.rpc.windows import USUAL, Windows

MAX_CONCURRENT_STREAMS: Final = 1024
MAX_FRAME_OF_CLIENT: Final = 64 * 1024
MAX_FRAME_OF_SERVER: Final = 1024 * 1024
"""Requests are small; answers with output are not. A frame is held whole before anything in it is looked at."""
MAX_HEADER_LIST: Final = 16 * 1024

NOT_GRPC: Final = "NOT_GRPC"
"""Why an answer was none; said here, never by a server."""

_TRAILERS: Final = "the server's trailers are not gRPC"
_INSIDE: Final = "the answer ended inside a message"
_RESPONSE: Final = ((":status", "200"), ("content-type", "application/grpc+proto"))

Event: TypeAlias = (
    RequestReceived
    | ResponseReceived
    | MessageReceived
    | RequestEnded
    | ResponseEnded
    | WindowUpdated
    | StreamReset
    | StreamFailed
    | GoAway
    | Pong
)


class Connection(GRPCConnection):  # type: ignore[misc] # purerpc has no types
    """One HTTP/2 connection that carries gRPC, either side. Bytes in, events out; calls in, bytes out.

    ``receive_data`` raises ``h2.exceptions.ProtocolError`` when the *connection* cannot go on (a GOAWAY that says
    so is then in :meth:`data_to_send`).
    """

    def __init__(self, *, client_side: bool, windows: Windows = USUAL) -> None:
        self._windows = windows
        super().__init__(GRPCConfiguration(client_side=client_side, max_message_length=MAX_MESSAGE))
        self.h2_connection = self._make_h2(client_side=client_side)
        self._set_h2_connection_local_settings()
        self.message_read_buffers: dict[int, MessageReader] = {}
        self._requests = headers.RequestParser()
        self._handlers: dict[type, Callable[[Any], Sequence[Event]]] = {
            h2.events.RequestReceived: self._request_received,
            h2.events.ResponseReceived: self._response_received,
            h2.events.TrailersReceived: self._trailers_received,
            h2.events.DataReceived: self._data_received,
            h2.events.StreamEnded: self._stream_ended,
            h2.events.StreamReset: self._stream_reset,
            h2.events.ConnectionTerminated: self._connection_terminated,
            h2.events.WindowUpdated: self._window_updated,
            h2.events.RemoteSettingsChanged: self._remote_settings_changed,
            h2.events.PingAckReceived: self._ping_acknowledged,
            # What took a short way is an event of ours already.
            RequestReceived: self._known_request_received,
            AnswerBegun: self._answer_begun,
            AnswerEnded: self._answer_ended,
            WindowUpdated: self._window_was_updated,
        }

    @staticmethod
    def _make_h2(*, client_side: bool) -> CorrectedH2:
        # Headers come as bytes, and are judged by api.rpc.headers: in h2 a malformed one, or one that is not UTF-8,
        # costs the whole connection. Ours need no judging.
        config = h2.config.H2Configuration(
            client_side=client_side,
            header_encoding=None,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        return ShortCallsH2(config, MAX_FRAME_OF_SERVER if client_side else MAX_FRAME_OF_CLIENT, MAX_HEADER_LIST)

    def _set_h2_connection_local_settings(self) -> None:
        codes = h2.settings.SettingCodes
        client = self.config.client_side
        max_frame = MAX_FRAME_OF_SERVER if client else MAX_FRAME_OF_CLIENT
        announced = {
            codes.MAX_CONCURRENT_STREAMS: MAX_CONCURRENT_STREAMS,
            codes.INITIAL_WINDOW_SIZE: self._windows.stream,
            codes.MAX_FRAME_SIZE: max_frame,
            codes.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST,
            codes.ENABLE_PUSH: 0,
        }
        self.h2_connection.local_settings = h2.settings.Settings(client=client, initial_values=announced)
        self.h2_connection.max_inbound_frame_size = max_frame
        self.h2_connection.widest = self._windows.widest

    def initiate_connection(self) -> None:
        self.h2_connection.initiate_connection()
        self.h2_connection.increment_flow_control_window(self._windows.connection)

    # ---- in

    def receive_data(self, data: bytes | memoryview) -> list[Event]:
        return self._translated(self.h2_connection.receive_data(data))

    def receive_turn(self, view: memoryview, most: int) -> tuple[list[Event], int]:
        """As :meth:`receive_data`, for about so many bytes, as :meth:`api.rpc.http2.FastH2.receive_turn`."""
        events, taken = self.h2_connection.receive_turn(view, most)
        return self._translated(events), taken

    def _translated(self, events: list[Any]) -> list[Event]:
        result: list[Event] = []
        for event in events:
            handler = self._handlers.get(type(event))
            if handler:
                result += handler(event)
        return result

    def _window_was_updated(self, event: WindowUpdated) -> tuple[Event]:
        return (event,)

    def _known_request_received(self, event: RequestReceived) -> tuple[Event]:
        self.message_read_buffers[event.stream_id] = MessageReader()
        return (event,)

    def _answer_begun(self, event: AnswerBegun) -> tuple[Event, ...]:
        self.message_read_buffers[event.stream_id] = MessageReader()
        return ()

    def _answer_ended(self, event: AnswerEnded) -> tuple[Event]:
        reader = self.message_read_buffers.pop(event.stream_id, None)
        if reader and reader.incomplete:
            return (self._fail(event.stream_id, _TRAILERS, ProtocolError(_INSIDE)),)
        ended = ResponseEnded(event.stream_id, event.known.status)
        ended.custom_metadata, ended.error = event.known.custom_metadata, None
        return (ended,)

    def _request_received(self, event: h2.events.RequestReceived) -> list[Event]:
        stream_id = event.stream_id
        try:
            request = self._requests.parse(event.headers)
        except headers.MalformedHeadersError:
            self._reset_if_open(stream_id, ErrorCodes.PROTOCOL_ERROR)
            self.h2_connection.forget(stream_id)
            return []
        if isinstance(request, headers.Refusal):
            self._refuse(stream_id, request)
            return []
        self.h2_connection.remember(event, request)
        if event.stream_ended is None:
            self.message_read_buffers[stream_id] = MessageReader()
            return [RequestReceived(stream_id, request)]
        return [RequestReceived(stream_id, request), RequestEnded(stream_id)]

    def _refuse(self, stream_id: int, refusal: headers.Refusal) -> None:
        self.h2_connection.patience.offend()
        trailers = [
            (":status", str(refusal.http_status)),
            ("content-type", "application/grpc"),
            ("grpc-status", str(int(Code.INTERNAL))),
            ("grpc-message", percent(refusal.message)),
        ]
        with contextlib.suppress(h2.exceptions.StreamClosedError):  # given up right behind its headers
            self.h2_connection.send_headers(stream_id, trailers, end_stream=True)
            self._reset_if_open(stream_id, ErrorCodes.NO_ERROR)
        self.h2_connection.forget(stream_id)

    def _response_received(self, event: h2.events.ResponseReceived) -> list[Event]:
        stream_id = event.stream_id
        try:
            values = HeaderDict(headers.checked(event.headers, headers.RESPONSE_PSEUDO))
            if event.stream_ended is not None:
                values.pop(":status", None)
                return [self._response_ended(stream_id, values)]
            received = ResponseReceived.parse_from_stream_id_and_headers_destructive(stream_id, values)
        except (ProtocolError, ValueError, KeyError) as exc:
            return [self._fail(stream_id, "the server's answer is not gRPC", exc)]
        self.message_read_buffers[stream_id] = MessageReader()
        self.h2_connection.remember(event, received)
        return [received]

    def _trailers_received(self, event: h2.events.TrailersReceived) -> list[Event]:
        if not self.config.client_side:
            return self._request_trailers(event)
        try:
            values = HeaderDict(headers.checked(event.headers, headers.NO_PSEUDO))
            ended = self._response_ended(event.stream_id, values)
        except (ProtocolError, ValueError, KeyError) as exc:
            return [self._fail(event.stream_id, _TRAILERS, exc)]
        if ended.error is None:
            self.h2_connection.remember(event, ended)
        return [ended]

    def _request_trailers(self, event: h2.events.TrailersReceived) -> list[Event]:
        """They mean nothing in gRPC, and the END_STREAM that they carry is its own event; but they may be malformed."""
        try:
            headers.checked(event.headers, headers.NO_PSEUDO)
        except headers.MalformedHeadersError:
            self._drop_reader(event.stream_id)
            self._reset_if_open(event.stream_id, ErrorCodes.PROTOCOL_ERROR)
            return [StreamReset(event.stream_id, ErrorCodes.PROTOCOL_ERROR)]
        return []

    def _response_ended(self, stream_id: int, values: Any) -> ResponseEnded:
        reader = self.message_read_buffers.pop(stream_id, None)
        details = values.pop("grpc-status-details-bin", None)
        event = ResponseEnded.parse_from_stream_id_and_headers_destructive(stream_id, values)
        if reader and reader.incomplete and event.status.int_value == Code.OK:
            raise ProtocolError(_INSIDE)
        event.error = error_from(event.status.int_value, event.status.status_message, details)
        return event

    def _data_received(self, event: h2.events.DataReceived) -> list[Event]:
        stream_id = event.stream_id
        reader = self.message_read_buffers.get(stream_id)
        if reader is None:  # the call ended here while this was on its way
            self.acknowledge_received_data(stream_id, event.flow_controlled_length)
            return []
        try:
            messages = reader.feed(event.data, event.flow_controlled_length)
        except RpcError as exc:
            self.h2_connection.patience.offend()
            self._drop_reader(stream_id)
            return [StreamFailed(stream_id, exc)]
        if reader.incomplete:
            self.h2_connection.give_back(stream_id)
        return [MessageReceived(stream_id, message, credit) for message, credit in messages]

    def _stream_ended(self, event: h2.events.StreamEnded) -> list[Event]:
        reader = self.message_read_buffers.pop(event.stream_id, None)
        if reader is None:
            return []
        if self.config.client_side:  # END_STREAM without trailers
            return [self._fail(event.stream_id, "the server ended the answer without a status", None)]
        if reader.incomplete:
            self.h2_connection.patience.offend()
            return [StreamFailed(event.stream_id, UnknownError("the request ended inside a message"))]
        return [RequestEnded(event.stream_id)]

    def _stream_reset(self, event: h2.events.StreamReset) -> list[Event]:
        self._drop_reader(event.stream_id)
        return [StreamReset(event.stream_id, event.error_code)]

    def _connection_terminated(self, event: h2.events.ConnectionTerminated) -> list[Event]:
        return [GoAway(event.last_stream_id, event.error_code)]

    def _ping_acknowledged(self, event: h2.events.PingAckReceived) -> list[Event]:
        return [Pong()]

    def _fail(self, stream_id: int, message: str, cause: Exception | None) -> StreamFailed:
        error = UnknownError(message, reason=NOT_GRPC)
        error.__cause__ = cause
        self._drop_reader(stream_id)
        self._reset_if_open(stream_id, ErrorCodes.PROTOCOL_ERROR)
        return StreamFailed(stream_id, error)

    # ---- out

    def begin_request(self, headers: headers.Headers) -> int:
        """Queue the headers of a request; its stream.

        Raises:
            h2.exceptions.ProtocolError: the peer takes no further stream, or there is no number left for one.
        """
        stream_id = int(self.h2_connection.get_next_available_stream_id())
        self.h2_connection.send_headers(stream_id, headers)
        return stream_id

    def request(self, headers: headers.Headers, message: bytes) -> int:
        """Queue a whole request; its stream. 0, and nothing is done, if it has to be said piece by piece."""
        return self.h2_connection.request(headers, message)

    def message_frames(self, stream_id: int, parts: Sequence[Buffer], *, end_stream: bool = False) -> list[Buffer]:
        """DATA within both windows (:meth:`send_window`), to be written now, behind whatever else was to be sent.

        Raises:
            h2.exceptions.StreamClosedError: the stream is gone.
        """
        return self.h2_connection.data_frames(stream_id, parts, end_stream=end_stream)

    def forget(self, stream_id: int) -> None:
        """The call is over on both sides; nothing of it is kept."""
        self._drop_reader(stream_id)
        self.h2_connection.forget(stream_id)

    def send_window(self, stream_id: int) -> int:
        """Bytes of DATA that the peer accepts on this stream now.

        Raises:
            h2.exceptions.StreamClosedError: the stream is gone.
        """
        return int(self.h2_connection.local_flow_control_window(stream_id))

    def respond(self, stream_id: int, message: bytes) -> None:
        """Answer with one message and OK, within both windows; all of it waits in :meth:`data_to_send`.

        Raises:
            h2.exceptions.StreamClosedError: the stream is gone.
        """
        if self.h2_connection.respond(stream_id, _RESPONSE, message, OK):
            return
        parts = (PREFIX.pack(False, len(message)), message)
        self.h2_connection.send_headers(stream_id, _RESPONSE)
        self.h2_connection.queue(self.h2_connection.data_frames(stream_id, parts, end_stream=False))
        self.h2_connection.send_headers(stream_id, OK, end_stream=True)
        self._drop_reader(stream_id)
        self._reset_if_open(stream_id, ErrorCodes.NO_ERROR)

    @property
    def incomplete_bytes(self) -> int:
        """Bytes of messages that are not whole."""
        return sum(reader.uncredited for reader in self.message_read_buffers.values())

    @property
    def data_left(self) -> int:
        """Bytes that are still to come of the DATA frame at hand, if there is one."""
        return int(self.h2_connection.data_left)

    @property
    def offences(self) -> int:
        """Streams that had to be reset or refused for what the peer did."""
        return int(self.h2_connection.patience.offences)

    @property
    def unsent(self) -> int:
        """Bytes that wait in :meth:`data_to_send`."""
        return self.h2_connection.unsent

    def finish(self, stream_id: int, error: RpcError | None, *, response_started: bool) -> None:
        """End a response with a status; give up what the client may still be sending (RFC 9113, 8.1)."""
        trailers = (() if response_started else _RESPONSE) + trailers_of(error)
        self._drop_reader(stream_id)
        self.h2_connection.send_headers(stream_id, trailers, end_stream=True)
        self._reset_if_open(stream_id, ErrorCodes.NO_ERROR)

    def cancel(self, stream_id: int) -> None:
        """Give up a stream: RST_STREAM(CANCEL), if the stream is still there."""
        self._drop_reader(stream_id)
        self._reset_if_open(stream_id, ErrorCodes.CANCEL)

    def send_goaway(self, code: int = ErrorCodes.NO_ERROR) -> None:
        """Announce that no further stream is accepted; open ones go on."""
        self.h2_connection.send_goaway(code)

    def send_ping(self) -> None:
        """Ask the peer for a sign of life; :class:`Pong` is the answer."""
        self.h2_connection.ping(b"jobdping")

    def _drop_reader(self, stream_id: int) -> None:
        """Keep no more of a stream; its share of the connection's window goes back, or other calls would starve."""
        reader = self.message_read_buffers.pop(stream_id, None)
        if reader and reader.uncredited:
            self.acknowledge_received_data(stream_id, reader.uncredited)

    def _reset_if_open(self, stream_id: int, code: int) -> None:
        stream = self.h2_connection.streams.get(stream_id)
        if stream is not None and not stream.closed:
            self.reset_stream(stream_id, code)
