"""A job's output, as a client reads it: one stream, however many connections it takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Self

import betterproto
import trio

from api import methods
from api.errors import RpcError, StreamCutError, UnavailableError
from api.messages import AttachResponse, Gap, Heartbeat, Output, StreamRequest, StreamResponse, Verdict
from api.retry import Retry, may_retry
from api.rpc.channel import Answers, Channel


class OutputStream:
    """A job's output, byte for byte, through every loss of the connection.

    Attributes:
        offset: of the first byte that was not given yet, once that is known; a later stream can begin there.
        gaps: what could not be recorded, so far.
        verdict: how the job ended, once the iteration is over.
    """

    def __init__(
        self,
        channel: Callable[[], Awaitable[Channel]],
        avoid: Callable[[Channel], None],
        retry_for: float,
        request: StreamRequest,
    ) -> None:
        """
        Args:
            channel: gives an open connection.
            avoid: the server at the other end of one cannot answer now, and another one is to be asked.
            retry_for: seconds for which a stream that was cut tries to go on.
            request: what to follow, and from where on.
        """
        self._channel = channel
        self._avoid = avoid
        self._asked: Channel | None = None
        self._request = request
        self.gaps: list[Gap] = []
        self._busy = False
        self.verdict: Verdict | None = None
        self._call = AsyncExitStack()
        self._answers: Answers[StreamResponse] | Answers[AttachResponse] | None = None
        self._retry = Retry(retry_for)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Output:
        """The next piece of output; the iteration ends with the verdict.

        Raises:
            StreamCutError: the stream ended without its verdict, and could not be taken up again in time.
            RpcError: the server refused (NotFoundError, PermissionDeniedError, …).
        """
        if self._busy:
            raise trio.BusyResourceError("another task is reading this stream")
        self._busy = True
        try:
            return await self._next()
        finally:
            self._busy = False

    async def _next(self) -> Output:
        while self.verdict is None:
            answer = await self._receive()
            _, event = betterproto.which_one_of(answer, "event")
            self._note(event)
            if isinstance(event, Output):
                self._request.offset = event.offset + len(event.data)  # a stream that is cut goes on from here
                return event
            if isinstance(event, Heartbeat):
                self._request.offset, self._request.attempt = event.offset, event.attempt
            if isinstance(event, Gap):
                self.gaps.append(event)
            if isinstance(event, Verdict):
                self.verdict = event
        raise StopAsyncIteration

    def _note(self, event: object) -> None:
        """For events that output alone does not have."""

    @property
    def offset(self) -> int:
        field, value = betterproto.which_one_of(self._request, "start")
        return value if field == "offset" and isinstance(value, int) else 0

    async def _receive(self) -> StreamResponse | AttachResponse:
        while True:
            try:
                if self._answers is None:
                    self._answers = await self._begin()
                answer = await self._answers.receive()
            except RpcError as exc:
                if not may_retry(exc):
                    raise
                self._check_resumable(exc)
                if self._asked and isinstance(exc, UnavailableError):
                    self._avoid(self._asked)
                await self._break_off()
                if not await self._retry.pause(exc.retry_after):
                    if not isinstance(exc, UnavailableError):
                        raise
                    raise StreamCutError(
                        f"the output stream was cut at offset {self.offset}: {exc}", offset=self.offset
                    ) from exc
                continue
            if answer is None:
                raise StreamCutError(
                    f"the output stream ended at offset {self.offset} without a verdict", offset=self.offset
                )
            self._retry.reset()
            return answer

    async def _begin(self) -> Answers[StreamResponse] | Answers[AttachResponse]:
        self._asked = channel = await self._channel()
        return await self._call.enter_async_context(channel.call(methods.STREAM, self._request))

    def _check_resumable(self, exc: RpcError) -> None:
        """Raise, if what was cut must not be gone on with: output always can be."""

    async def _break_off(self) -> None:
        self._answers = None
        await self._call.aclose()

    async def aclose(self) -> None:
        """Give the stream up. Harmless when it has ended."""
        await self._break_off()
