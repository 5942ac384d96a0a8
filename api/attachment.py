"""Attached to a job: its output is read here, and its stdin written.

    async with jobs.attach(job.id) as attachment, trio.open_nursery() as nursery:
        nursery.start_soon(feed, attachment)      # await attachment.send(…), attachment.close_stdin()
        async for chunk in attachment:
            sys.stdout.buffer.write(chunk.data)

Somebody has to read while others write: how far stdin has come is learned by reading.
"""

from __future__ import annotations

import uuid
from typing import Final

import betterproto
import trio

from api import methods
from api.errors import FailedPreconditionError, InputCutError, JobdError, RpcError
from api.messages import (
    Attached,
    AttachRequest,
    AttachResponse,
    AttachStart,
    CloseStdin,
    InputAccepted,
    StreamRequest,
    StreamResponse,
    Verdict,
    WindowSize,
)
from api.output import OutputStream, Servers
from api.rpc.channel import Answers, Conversation
from api.rpc.codec import encode_request

PIECE: Final = 256 * 1024
MAX_UNACCEPTED: Final = 1024 * 1024
"""Bytes that are sent ahead of what the job's stdin has taken. They are what is uncertain when a connection is lost."""


class Attachment(OutputStream):
    """A job's output, as :class:`OutputStream`, and the writing side of its stdin.

    When the connection is lost and everything that was sent was accepted, both go on by themselves. When bytes were on
    their way, nobody can say whether the job has them, and the iteration ends with :class:`InputCutError`. A server
    that leaves in an orderly way can say it, and they are sent again.

    Attributes:
        job_id: the job's whole id.
        terminal: the job has one.
        accepted: bytes that were written into the job's stdin, or terminal, for certain.
        stdin_closed: stdin was closed.
        refused: the job has closed its end of stdin, or has ended.
    """

    def __init__(
        self, servers: Servers, request: StreamRequest, *, take_over: bool, size: tuple[int, int] | None
    ) -> None:
        """
        Args:
            request: the job, and where in its output to begin.
            take_over: end the attachment of somebody else.
            size: rows and columns of the terminal.
        """
        super().__init__(servers, request)
        self.job_id = ""
        self.terminal = False
        self.accepted = 0
        self.stdin_closed = False
        self.refused = False
        self._name = str(uuid.uuid4())
        self._take_over = take_over
        self._size = size
        self._closing = False  # asked for
        self._calling: Conversation[AttachRequest, AttachResponse] | None = None
        self._conversation: Conversation[AttachRequest, AttachResponse] | None = None  # the server has taken it
        self._taken = 0  # accepted in this conversation
        self._ahead = bytearray()  # not accepted yet
        self._on_the_way = False  # some of that may have come, and nobody knows
        self._speaking = trio.Lock()
        self._over = False
        self._changed = trio.Event()

    # ---- stdin

    async def send(self, data: bytes) -> None:
        """Write to the job's stdin; waits while that is too far behind.

        Cancelled, it may have sent a part, and nothing more can be sent.

        Raises:
            trio.BrokenResourceError: the job has closed its end, or has ended.
            trio.ClosedResourceError: the attachment has ended.
        """
        view = memoryview(data)
        while view:
            room = await self._room()
            piece = view[: min(room, PIECE)]
            if await self._tell(AttachRequest(data=bytes(piece)), piece):
                view = view[len(piece) :]

    async def close_stdin(self) -> None:
        """No more comes: the job reads the end. Not for a terminal, which has no such end."""
        self._closing = True
        await self._tell(AttachRequest(close_stdin=CloseStdin()))

    async def flush(self) -> None:
        """Wait until all that was sent is accepted, or nothing more can be. Leaving earlier may lose its end."""
        await trio.lowlevel.checkpoint()
        while self.unaccepted and not self._over:
            await self._changed.wait()

    async def resize(self, rows: int, columns: int) -> None:
        """Set the size of the job's terminal.

        Raises:
            InvalidArgumentError: no terminal can be so large; nothing was sent.
        """
        request = AttachRequest(resize=WindowSize(rows, columns))
        encode_request(request)  # what cannot be sent is not told to the next server either
        self._size = rows, columns
        await self._tell(request)

    @property
    def unaccepted(self) -> int:
        """Bytes that were sent and not accepted yet."""
        return 0 if self.refused else len(self._ahead)

    async def _room(self) -> int:
        """Wait until some more can be sent; returns how much."""
        await trio.lowlevel.checkpoint()
        while True:
            if self._over:
                raise trio.ClosedResourceError("the attachment has ended")
            if self.refused:
                raise trio.BrokenResourceError("the job has closed its stdin")
            if self._conversation and self.unaccepted < MAX_UNACCEPTED:
                return MAX_UNACCEPTED - self.unaccepted
            await self._changed.wait()

    async def _tell(self, request: AttachRequest, input_: bytes | memoryview = b"") -> bool:
        """Send a request. False: it was not sent, for want of a connection; what is not input is told to the next one
        by :meth:`_on_attached`."""
        async with self._speaking:
            conversation = self._conversation
            if conversation is None:
                return False
            self._ahead += input_
            self._on_the_way = self._on_the_way or bool(input_)
            tried = False
            try:
                await conversation.send(request)
                tried = True
            except RpcError:
                tried = True
                await trio.lowlevel.checkpoint()  # whoever reads meets it as well, and decides what becomes of it
            finally:
                if not tried:  # cancelled: a part of a message may have gone, and nothing can follow it
                    self._end()
            return True

    # ---- life

    async def begin(self) -> None:
        """Wait until the job has started, and the server has let us in."""
        while not self.job_id:
            self._note(await self._receive())

    async def _begin(self) -> Answers[StreamResponse] | Answers[AttachResponse]:
        if self.refused and self._over:  # the job has ended: what is left is output
            return await super()._begin()
        self._asked = channel = await self._servers.channel()
        self._calling = await self._call.enter_async_context(channel.converse(methods.ATTACH))
        self._taken = 0
        await self._calling.send(AttachRequest(start=self._start()))
        return self._calling

    def _start(self) -> AttachStart:
        start = AttachStart(job_id=self._request.job_id, take_over=self._take_over, attachment_id=self._name)
        field, value = betterproto.which_one_of(self._go_on(), "start")
        setattr(start, field, value)
        if self._size:
            start.window_size = WindowSize(*self._size)
        return start

    def _note(self, event: object) -> None:
        match event:
            case InputAccepted():
                self._accept(event.bytes)
                self.stdin_closed, self.refused = event.closed, event.refused
            case Verdict():
                self._end()
            case _:
                return
        self._tell_changed()

    def _accept(self, count: int) -> None:
        """So many bytes of this conversation are in the job's stdin."""
        fresh, self._taken = count - self._taken, count
        self.accepted += fresh
        del self._ahead[:fresh]

    async def _on_attached(self, attached: Attached) -> None:
        self.job_id = self._request.job_id = attached.job_id
        self._goes_on_at = attached.offset
        self.terminal, self.stdin_closed = attached.terminal, attached.stdin_closed
        self._take_over = False  # that was done; somebody who took over from us is not to be driven out
        assert self._calling
        try:
            for start in range(0, len(self._ahead), PIECE):  # what a server that left had not written
                self._on_the_way = True
                await self._calling.send(AttachRequest(data=bytes(self._ahead[start : start + PIECE])))
        except RpcError:
            return  # reading meets it as well
        self._conversation = self._calling
        self._tell_changed()
        if self._closing and not self.stdin_closed:  # a server before this one was asked
            await self.close_stdin()

    async def _receive(self) -> object:
        try:
            return await self._received()
        except JobdError:
            self._end()
            raise

    async def _received(self) -> object:
        try:
            event = await super()._receive()
        except FailedPreconditionError as exc:
            if exc.reason != "JOB_ENDED" or not self.job_id:
                raise
            await self._break_off()  # it ended while nobody was connected
            self.refused = True
            self._end()
            return await super()._receive()
        if isinstance(event, Attached):
            await self._on_attached(event)
        return event

    def _check_resumable(self, exc: RpcError) -> None:
        self._conversation = None
        if exc.reason == "SERVER_LEAVING" and "accepted" in exc.metadata:
            self._accept(int(exc.metadata["accepted"]))
            self._on_the_way = False
        elif self.unaccepted and self._on_the_way:
            raise InputCutError(
                f"the connection was lost with {self.unaccepted} bytes of input on their way, which the job may or may "
                f"not have got, after the {self.accepted} that it has for certain ({exc})",
                accepted=self.accepted,
                uncertain=self.unaccepted,
                offset=self.offset,
            ) from exc

    def _end(self) -> None:
        """Nothing can be sent any more."""
        self._over, self._conversation = True, None
        self._tell_changed()

    def _tell_changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def aclose(self) -> None:
        """Detach. The job goes on, and its stdin stays as it is."""
        self._end()
        await super().aclose()
