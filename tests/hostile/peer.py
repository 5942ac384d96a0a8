"""A client over real TLS that sends what it likes, and tells what it was answered. Blocking; for a thread."""

from __future__ import annotations

import socket
import ssl
import time
from types import TracebackType
from typing import Any, Self

from h2.errors import ErrorCodes
from hpack import Decoder
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame

from api.address import parse_address
from api.errors import Code
from api.messages import QueryRequest
from api.protobuf import encode
from tests.support.wire import CALL, RawClient

PATIENCE = 10.0
Headers = tuple[tuple[str, str], ...]


def with_header(*more: tuple[str, str], **changed: str) -> Headers:
    """The headers of a call, with some more, and others of the pseudo-headers (without their colon)."""
    return (*((k, changed.get(k.removeprefix(":").replace("-", "_"), v)) for k, v in CALL), *more)


class RawPeer:
    """One connection.

    Attributes:
        raw: makes frames.
        received: bytes of DATA so far.
    """

    def __init__(self, server: str, context: ssl.SSLContext) -> None:
        self.raw = RawClient()
        self.received = 0
        self._decoder = Decoder()
        self._unread = b""
        self._next_id = 1
        self._answers: dict[int, list[str]] = {}
        self._over: str | None = None  # how the connection ended
        plain = socket.create_connection(parse_address(server), PATIENCE)
        try:
            self._socket = context.wrap_socket(plain, server_hostname="localhost")
        except BaseException:
            plain.close()
            raise
        self._socket.settimeout(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    # ---- out

    def begin(self, settings: dict[int, int] | None = None) -> Self:
        """The preface."""
        self.send(self.raw.begin(settings))
        return self

    def next_id(self) -> int:
        """The id of the next stream."""
        self._next_id += 2
        return self._next_id - 2

    def send(self, data: bytes) -> bool:
        """Send bytes; False, when nobody takes them any more."""
        try:
            self._socket.sendall(data)
        except (OSError, ssl.SSLError):
            self._read(until=lambda: False, seconds=1.0)
            return False
        return True

    def request(self, headers: Headers = CALL, body: bytes | None = None) -> str:
        """A call of its own stream, and its answer; the body is that of a Query, unless it is given."""
        if self._over:
            return self._over
        stream_id = self.next_id()
        if body is None:
            body = self.raw.message(stream_id, encode(QueryRequest("0000")))[9:]
        self.send(self.raw.headers(stream_id, headers) + self.raw.data(stream_id, body, end=True))
        return self.outcome(stream_id)

    # ---- in

    def outcome(self, stream_id: int = 0, seconds: float = PATIENCE) -> str:
        """How a stream ends (0: the connection), in words."""
        self._read(until=lambda: stream_id in self._answers, seconds=seconds)
        return self._answers.get(stream_id, [self._over or "silence"])[-1]

    def answered(self, stream_id: int) -> str:
        """How a stream has ended, as far as that was heard."""
        return self._answers.get(stream_id, [self._over or "open"])[-1]

    def listen(self) -> str | None:
        """What there is to be heard, without waiting; how the connection ended, once it has."""
        self._read(until=lambda: True, seconds=0.0)
        return self._over

    def settle(self) -> None:
        """Wait until the server has seen all that was sent."""
        self._answers.pop(-1, None)
        self.send(self.raw.ping())
        self._read(until=lambda: -1 in self._answers, seconds=PATIENCE)

    def _read(self, until: Any, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._over:
            self._take_frames()
            left = deadline - time.monotonic()
            if self._over or (until() and seconds) or (left <= 0 and seconds):
                return
            self._socket.settimeout(max(left, 0.0) or 0.000001)
            try:
                data = self._socket.recv(65536)
            except (TimeoutError, ssl.SSLWantReadError):
                return
            except (OSError, ssl.SSLError):
                data = b""
            finally:
                self._socket.settimeout(PATIENCE)
            if not data:
                self._over = self._over or "closed"
            self._unread += data

    def _take_frames(self) -> None:
        while len(self._unread) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(self._unread[:9]))
            if len(self._unread) < 9 + length:
                return
            frame.parse_body(memoryview(self._unread[9 : 9 + length]))
            self._unread = self._unread[9 + length :]
            self._note(frame)

    def _note(self, frame: Frame) -> None:
        self.received += len(frame.data) if isinstance(frame, DataFrame) else 0
        match frame:
            case GoAwayFrame():
                self._over = f"GOAWAY {ErrorCodes(frame.error_code).name}"
            case RstStreamFrame() if frame.error_code != ErrorCodes.NO_ERROR:
                self._answer(frame.stream_id, f"RST_STREAM {ErrorCodes(frame.error_code).name}")
            case HeadersFrame():
                headers = {str(name): str(value) for name, value in self._decoder.decode(frame.data)}
                if headers.get(":status", "200") != "200":
                    self._answer(frame.stream_id, f"HTTP {headers[':status']}")
                elif "grpc-status" in headers:
                    self._answer(frame.stream_id, Code(int(headers["grpc-status"])).name)
            case PingFrame() if "ACK" in frame.flags:
                self._answer(-1, "PING")
            case PingFrame():
                self.send(PingFrame(0, frame.opaque_data, flags=["ACK"]).serialize())
            case DataFrame() if frame.flow_controlled_length and self.gives_window:
                self.send(self.raw.window(0, frame.flow_controlled_length))

    gives_window = True

    def _answer(self, stream_id: int, what: str) -> None:
        self._answers.setdefault(stream_id, []).append(what)
