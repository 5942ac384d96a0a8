"""h2 3.2.0 where RFC 9113 has it otherwise, and with bounds where it has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hpack import HPACKError
from hyperframe.frame import Frame, GoAwayFrame, RstStreamFrame, WindowUpdateFrame

from api.rpc.codec import Buffer
from api.rpc.patience import Patience
from api.rpc.windows import FEW, Window

CLOSED_STREAMS: Final = 2048
"""Streams whose end is remembered, so that what was on its way is told from what must not be (RFC 9113, 5.1)."""

_SETTINGS: Final = frozenset(SettingCodes)
_NO_FAULT: Final = frozenset({ErrorCodes.NO_ERROR, ErrorCodes.CANCEL})


def window_of(stream: Any) -> Window:
    """How much may come on this stream of h2's: what h2 shows of that, a number, can neither be asked nor written."""
    window: Window = stream._inbound_window_manager  # noqa: SLF001 # there is no other way to it
    return window


class CompressionError(h2.exceptions.ProtocolError):  # type: ignore[misc] # h2 3.2 has no types
    """A header block cannot be decoded, and so none after it (RFC 9113, 4.3)."""

    error_code = ErrorCodes.COMPRESSION_ERROR


class CorrectedH2(h2.connection.H2Connection):  # type: ignore[misc] # h2 3.2 has no types
    """As the module says. After a GOAWAY, streams up to its last id go on."""

    MAX_CLOSED_STREAMS = CLOSED_STREAMS

    def __init__(self, config: h2.config.H2Configuration) -> None:
        super().__init__(config)
        self._inbound_flow_control_window_manager = Window(self.inbound_flow_control_window)
        self.patience = Patience()
        self.widest = 0  # how wide a stream's window may become
        self._reset: dict[int, None] = {}  # streams that we have reset lately

    def _prepare_for_sending(self, frames: list[Frame]) -> None:
        super()._prepare_for_sending([frame for frame in frames if self._is_to_go(frame)])

    def _is_to_go(self, frame: Frame) -> bool:
        """What was on its way when we reset a stream is ignored (RFC 9113, 5.1); h2 resets it again for each frame."""
        if not isinstance(frame, RstStreamFrame):
            return True
        if frame.stream_id in self._reset:
            self.patience.bear()
            return False
        self._reset[frame.stream_id] = None
        if len(self._reset) > CLOSED_STREAMS:
            del self._reset[next(iter(self._reset))]
        if frame.error_code not in _NO_FAULT:
            self.patience.offend()
        return True

    def acknowledge_received_data(self, acknowledged_size: int, stream_id: int) -> None:
        super().acknowledge_received_data(acknowledged_size, stream_id)
        self.give_back(stream_id)

    def give_back(self, stream_id: int) -> None:
        """Give a window that is shut back what was taken of its stream, or make it wider, if it is time for that
        (:class:`api.rpc.windows.Window`)."""
        stream = self.streams.get(stream_id)
        if stream is None or not stream.open:
            return
        window = window_of(stream)
        more = window.give_back_rest()
        if self.widest and len(self.streams) <= FEW:
            more += window.widen(self.widest)
        if more:
            frame = WindowUpdateFrame(stream_id)
            frame.window_increment = more
            self._prepare_for_sending([frame])

    def _begin_new_stream(self, stream_id: int, allowed_ids: Any) -> Any:
        stream = super()._begin_new_stream(stream_id, allowed_ids)
        stream._inbound_window_manager = Window(self.local_settings.initial_window_size)  # noqa: SLF001 # h2 has no setting for whose it is
        return stream

    def send_goaway(self, error_code: int) -> None:
        frame = GoAwayFrame(0)
        frame.last_stream_id = self.highest_inbound_stream_id
        frame.error_code = error_code
        self._prepare_for_sending([frame])

    def _receive_goaway_frame(self, frame: Any) -> tuple[list[Any], list[Any]]:
        event = h2.events.ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        event.additional_data = None
        return [], [event]

    def _receive_settings_frame(self, frame: Any) -> tuple[list[Any], list[Any]]:
        # RFC 9113, 6.5.2: a setting that is unknown is ignored. h2 keeps it, and there are 65,536 of them.
        frame.settings = {code: value for code, value in frame.settings.items() if code in _SETTINGS}
        found: tuple[list[Any], list[Any]] = super()._receive_settings_frame(frame)
        return found

    def _receive_headers_frame(self, frame: Any) -> tuple[list[Any], list[Any]]:
        try:
            found: tuple[list[Any], list[Any]] = super()._receive_headers_frame(frame)
        except h2.exceptions.ProtocolError as exc:
            if type(exc) is h2.exceptions.ProtocolError and isinstance(exc.__context__, HPACKError):
                raise CompressionError("A header block cannot be decoded.") from exc
            raise
        return found

    def _receive_window_update_frame(self, frame: Any) -> tuple[list[Any], list[Any]]:
        try:
            found, events = super()._receive_window_update_frame(frame)
        except h2.exceptions.StreamClosedError:
            return [], []  # RFC 9113, 5.1: one may still come for a stream that has just ended
        return found, events

    def data_frames(self, stream_id: int, parts: Sequence[Buffer], *, end_stream: bool) -> list[Buffer]:
        """What goes on the wire for DATA, cut to the peer's frame size, after all that h2 has to send before it.

        Raises:
            h2.exceptions.StreamClosedError: the stream is gone.
            h2.exceptions.FlowControlError: it is more than the peer accepts now.
        """
        data = b"".join(parts)
        size = self.max_outbound_frame_size
        last = max(len(data) - 1, 0) // size * size
        for start in range(0, last + 1, size):
            self.send_data(stream_id, data[start : start + size], end_stream=end_stream and start == last)
        return [self.data_to_send()]

    def queue(self, parts: Sequence[Buffer]) -> None:
        """Put what :meth:`data_frames` gave back behind what h2 has to send."""
        self._data_to_send += b"".join(parts)

    @property
    def data_left(self) -> int:
        """Nothing here is given in pieces."""
        return 0

    def remember(self, event: Any, request: Any) -> None:
        """The headers of an event were judged, and are this request. Nothing here is remembered."""

    def request(self, headers: Any, message: bytes) -> int:
        """Queue a whole request; its stream. 0, and nothing is done: it has to be said piece by piece, as here."""
        return 0

    def say(self, stream_id: int, parts: Sequence[Buffer], size: int) -> bytes | None:
        """One message, to be written now. None, and nothing is done: it has to go h2's way, as always here."""
        return None

    def respond(self, stream_id: int, headers: Any, message: bytes, trailers: Any) -> bool:
        """Queue a whole answer. False, and nothing is done: it has to be said piece by piece, as always here."""
        return False

    @property
    def unsent(self) -> int:
        """Bytes that h2 has to send."""
        return len(self._data_to_send)

    def forget(self, stream_id: int) -> None:
        """Let go of a stream that has ended, but for how it did (RFC 9113, 5.1: what may still come for it depends on
        that). h2 does it only when it counts the open ones, by looking at all."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.closed:
            del self.streams[stream_id]
            self._closed_streams[stream_id] = stream.closed_by
