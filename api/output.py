"""A job's output, as a client reads it: one stream, however many connections it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final, Protocol, Self

import betterproto
import trio

from api import methods
from api.errors import RpcError, StreamCutError, UnavailableError
from api.messages import (
    AttachResponse,
    Gap,
    Heartbeat,
    Output,
    OutputSource,
    StreamRequest,
    StreamResponse,
    Verdict,
)
from api.protobuf import decode, new, read_varint
from api.retry import Retry, may_retry
from api.rpc.channel import Answers, Channel
from api.rpc.codec import Buffer, Parts

OUTPUT_IN_ANSWER: Final = b"\x0a"
"""The key of StreamResponse.output, and of AttachResponse.output."""
DATA_IN_OUTPUT: Final = b"\x0a"
"""The key of Output.data."""
OFFSET_IN_OUTPUT, SOURCE_IN_OUTPUT, TIME_IN_OUTPUT = b"\x10", b"\x18", b"\x22"
"""And those of its other fields."""
HEAD: Final = 32
"""Bytes in which two keys and their lengths have room,"""
BEHIND: Final = 64
"""and those in which the other fields of an Output have."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of output, with its bytes as they came.

    Attributes:
        offset: of the first byte.
        data: the bytes, in several parts; good for as long as somebody has them.
        time: when they were read from the job, in the form that it came in.
    """

    offset: int
    source: OutputSource
    data: Sequence[Buffer]
    time: bytes = b""

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.offset + sum(map(len, self.data))

    @property
    def message(self) -> Output:
        """The same as a message of the contract."""
        time = decode(Output, TIME_IN_OUTPUT + self.time).time if self.time else None
        return new(Output, data=b"".join(self.data), offset=self.offset, source=self.source, time=time)


class Servers(Protocol):
    """Those that can be asked for a stream: a client's.

    Attributes:
        retry_for: seconds for which a stream that was cut tries to go on.
    """

    retry_for: float

    async def channel(self) -> Channel:
        """An open connection."""
        ...

    def avoid(self, channel: Channel) -> None:
        """The server at the other end cannot answer now: another one is to be asked, if there is one."""


class OutputStream:
    """A job's output, byte for byte, through every loss of the connection.

    Attributes:
        offset: of the first byte that was not given yet, once that is known; a later stream can begin there.
        gaps: what could not be recorded, so far.
        verdict: how the job ended, once the iteration is over.
    """

    def __init__(self, servers: Servers, request: StreamRequest) -> None:
        """
        Args:
            request: what to follow, and from where on.
        """
        self._servers = servers
        self._asked: Channel | None = None
        self._request = request
        # Where a stream that is cut goes on, and in which run of the job, once that is known.
        self._goes_on_at: int | None = None
        self._attempt: int | None = None
        self.gaps: list[Gap] = []
        self._busy = False
        self._taker: Callable[[Piece], bool] | None = None
        self._taker_failed: Exception | None = None
        self.verdict: Verdict | None = None
        self._call = AsyncExitStack()
        self._answers: Answers[StreamResponse] | Answers[AttachResponse] | None = None
        self._retry = Retry(servers.retry_for)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Output:
        """The next piece of output; the iteration ends with the verdict.

        Raises:
            StreamCutError: the stream ended without its verdict, and could not be taken up again in time.
            RpcError: the server refused (NotFoundError, PermissionDeniedError, …). AbortedError (RUN_LOST): the job was
                lost, and is run again; what this stream gave does not go on.
        """
        found = await self._read()
        if found is None:
            raise StopAsyncIteration
        return found.message if isinstance(found, Piece) else found

    async def receive(self, taker: Callable[[Piece], bool] | None = None) -> Piece | None:
        """As the iteration, without putting a piece of output together; None at the end.

        Args:
            taker: is offered pieces that come while this waits, in the turn of the loop in which they came: a line is
                there sooner than who waits can be woken. What it takes (True) is not given again. It must not wait, and
                is not for long work: the whole connection stands still meanwhile. What it raises is raised
                here, and the piece counts as given.

        Raises:
            StreamCutError, RpcError: as for the iteration.
        """
        self._taker = taker
        try:
            found = await self._read()
        finally:
            self._taker = None
        if self._taker_failed:
            failed, self._taker_failed = self._taker_failed, None
            raise failed
        return Piece(found.offset, found.source, (found.data,)) if isinstance(found, Output) else found

    async def _read(self) -> Output | Piece | None:
        if self._busy:
            raise trio.BusyResourceError("another task is reading this stream")
        self._busy = True
        try:
            return await self._next()
        finally:
            self._busy = False

    async def _next(self) -> Output | Piece | None:
        while self.verdict is None:
            event = await self._receive()
            self._note(event)
            if isinstance(event, Piece):
                self._goes_on_at = event.end
                return event
            if isinstance(event, Output):
                self._goes_on_at = event.offset + len(event.data)
                return event
            if isinstance(event, Heartbeat):
                self._goes_on_at = event.offset
            if isinstance(event, Gap):
                self.gaps.append(event)
            if isinstance(event, Verdict):
                self.verdict = event
        return None

    def _note(self, event: object) -> None:
        """For events that output alone does not have."""

    @property
    def offset(self) -> int:
        if self._goes_on_at is not None:
            return self._goes_on_at
        field, value = betterproto.which_one_of(self._request, "start")
        return value if field == "offset" and isinstance(value, int) else 0

    async def _receive(self) -> object:
        """The next event; mostly a :class:`Piece`, for one that is output."""
        while True:
            try:
                if self._answers is None:
                    self._answers = await self._begin()
                parts = await self._answers.receive_parts(self._take if self._taker else None)
            except RpcError as exc:
                if not may_retry(exc):
                    raise
                self._check_resumable(exc)
                if self._asked and isinstance(exc, UnavailableError):
                    self._servers.avoid(self._asked)
                await self._break_off()
                if not await self._retry.pause(exc.retry_after):
                    if not isinstance(exc, UnavailableError):
                        raise
                    raise StreamCutError(
                        f"the output stream was cut at offset {self.offset}: {exc}", offset=self.offset
                    ) from exc
                continue
            if parts is None:
                raise StreamCutError(
                    f"the output stream ended at offset {self.offset} without a verdict", offset=self.offset
                )
            self._retry.reset()
            event = piece_of(parts) or betterproto.which_one_of(self._answers.decode(parts), "event")[1]
            self._note_run(event)
            return event

    def _take(self, parts: Parts) -> bool:
        """Let a piece of output be taken at once."""
        piece = piece_of(parts)
        try:
            if piece is None or self._taker is None or not self._taker(piece):
                return False
        except Exception as exc:  # noqa: BLE001 # it costs whoever gave it, and not all calls of the connection
            self._taker_failed = exc
            return False
        self._retry.reset()
        self._note_run(piece)
        self._goes_on_at = piece.end
        return True

    def _note_run(self, event: object) -> None:
        """Keep which run of the job this is the output of: what is cut goes on in no other one. A server says it before
        all else, unless it is the first run."""
        if isinstance(event, Heartbeat):
            self._attempt = event.attempt
        elif self._attempt is None:
            self._attempt = 0

    def _go_on(self) -> StreamRequest:
        """The request, from where the stream was cut."""
        if self._goes_on_at is not None:
            self._request.offset = self._goes_on_at
        if self._attempt is not None:
            self._request.attempt = self._attempt
        return self._request

    async def _begin(self) -> Answers[StreamResponse] | Answers[AttachResponse]:
        self._asked = channel = await self._servers.channel()
        return await self._call.enter_async_context(channel.call(methods.STREAM, self._go_on()))

    def _check_resumable(self, exc: RpcError) -> None:
        """Raise, if what was cut must not be gone on with: output always can be."""

    async def _break_off(self) -> None:
        self._answers = None
        await self._call.aclose()

    async def aclose(self) -> None:
        """Give the stream up. Harmless when it has ended."""
        await self._break_off()


def piece_of(parts: Parts) -> Piece | None:
    """A message that is a piece of output and nothing else, with its data as they came: most are, and betterproto takes
    ten times as long to say so.

    None for any other message, and for one that another writer has put in another form: decoding tells what that is.
    """
    total = sum(map(len, parts))
    head = bytes(memoryview(parts[0])[:HEAD])
    if head[:1] != OUTPUT_IN_ANSWER or len(head) < min(HEAD, total):
        return None
    try:
        size, at = read_varint(head, 1)
        if at + size != total or head[at : at + 1] != DATA_IN_OUTPUT:
            return None
        length, at = read_varint(head, at + 1)
        data, rest = _split(parts, at, length)
        return None if rest is None else _piece(data, rest)
    except (IndexError, ValueError):
        return None


def _piece(data: Sequence[Buffer], rest: bytes) -> Piece | None:
    """The other fields of an Output, which come behind its data; None when there is another."""
    offset, source, time, at = 0, 0, b"", 0
    while at < len(rest):
        key, at = rest[at : at + 1], at + 1
        value, at = read_varint(rest, at)
        if key == OFFSET_IN_OUTPUT:
            offset = value
        elif key == SOURCE_IN_OUTPUT:
            source = value
        elif key == TIME_IN_OUTPUT and value < 128 and at + value <= len(rest):
            time = rest[at - 1 : at + value]  # with its length
            at += value
        else:
            return None
    return Piece(offset, OutputSource.try_value(source), data, time)


def _split(parts: Parts, start: int, length: int) -> tuple[list[Buffer], bytes | None]:
    """So many bytes from there on, and what comes after them; None when there are not so many, or much comes after."""
    data: list[Buffer] = []
    for number, part in enumerate(parts):
        view = memoryview(part)[start:]
        start = 0
        data.append(view[:length])
        length -= len(data[-1])
        if not length:
            rest = [view[len(data[-1]) :], *parts[number + 1 :]]
            return data, b"".join(rest) if sum(map(len, rest)) <= BEHIND else None
    return data, None
