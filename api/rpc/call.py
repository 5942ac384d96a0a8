"""One call, as middleware and handlers see it."""

from __future__ import annotations

import types
from collections.abc import Generator, Sequence
from typing import Any, Final

import betterproto
import trio

from api.call_context import CallContext
from api.errors import UnimplementedError
from api.identity import Principal
from api.methods import BY_PATH, AnyMethod
from api.rpc.access import Refusal
from api.rpc.call_stream import CallStream
from api.rpc.codec import Buffer, WireMessage, decode, encode
from api.rpc.events import Request
from api.rpc.session import Session

OWN_TASK: Final = object()
"""What a call that was begun in its connection's turn yields when it has to wait (``api.rpc.calls``)."""


class ServerCall:
    """One call, as middleware and handlers see it.

    Attributes:
        context: which call it is, and what else the log is to say of it.
        path: the ``:path`` asked for.
        method: what the table of methods has for it, or None.
        metadata: what the caller said beside the message; only what a peer may say itself.
        principal: who calls, once authentication has found out; or for whom.
        broker: who calls for the principal, if that is somebody else.
        trace: the trace that the caller makes it in, if that was said.
        standing: how far the call came, for whoever has to take it up again: told if the server ends it.
        in_turn: it runs in the turn of its connection's reader, and must not wait (:meth:`own_task`).
    """

    def __init__(self, stream: CallStream, session: Session, request: Request) -> None:
        self._stream = stream
        self._session = session
        self.context = CallContext(request.trace.trace_id if request.trace else "")
        self.path: str = request.path
        self.method: AnyMethod | None = BY_PATH.get(request.path)
        self.metadata: Sequence[tuple[str, str | bytes]] = request.metadata
        self.principal: Principal | None = None
        self.broker: Principal | None = None
        self.trace = request.trace
        self.standing: dict[str, str] = {}
        self.in_turn = False
        self.response_started = False
        self.answered = False  # whole, to its status
        self.timeout = request.timeout
        self.deadline = None if request.timeout is None else trio.current_time() + request.timeout

    @property
    def id(self) -> str:
        """Which call this is, in everything that the log says of it."""
        return self.context.id

    @property
    def job_id(self) -> str:
        """The job that the call is about, once the handler knows; "" before."""
        return self.context.job_id

    @job_id.setter
    def job_id(self, job_id: str) -> None:
        self.context.job_id = job_id

    @property
    def peer(self) -> str:
        """``host:port`` of the caller."""
        return self._session.transport.peer

    @property
    def peer_certificate(self) -> bytes | None:
        """The caller's verified certificate (DER), if there is one."""
        return self._session.peer_certificate

    @property
    def expired(self) -> bool:
        """The caller's deadline has passed."""
        return self.deadline is not None and trio.current_time() >= self.deadline

    @property
    def refusal(self) -> Refusal | None:
        """Why the caller is not let in, or not any more."""
        return self._session.access.refusal

    async def receive(self) -> betterproto.Message:
        """The request of a call that has exactly one.

        Raises:
            UnimplementedError: there was none, or more than one (gRPC's statuscodes.md: cardinality violation).
            RpcError: the message was too large or malformed, or the caller gave up.
        """
        assert self.method is not None
        await self._wanted()
        data = self._stream.take_whole()
        if data is not None:
            return decode(self.method.request, data)
        await self.own_task()
        data = await self._stream.receive_message()
        if data is None or await self._stream.receive_message() is not None:
            raise UnimplementedError(f"{self.path} takes exactly one request message")
        return decode(self.method.request, data)

    async def receive_next(self) -> betterproto.Message | None:
        """The next request of a call that has many, or None after the last.

        Raises:
            RpcError: the message was too large or malformed, or the caller gave up.
        """
        assert self.method is not None
        await self._wanted()
        await self.own_task()
        data = await self._stream.receive_message()
        return None if data is None else decode(self.method.request, data)

    async def _wanted(self) -> None:
        """Go no further with a call that was given up, or whose time was up, before its task has begun: here, where the
        middleware has seen it."""
        if not self.in_turn:
            await trio.lowlevel.checkpoint_if_cancelled()

    def start_response(self) -> None:
        """Send the response's headers now, so that the caller knows that it was heard. Never waits.

        Raises:
            CancelledError: the caller gave the call up.
            UnavailableError: the connection is lost.
        """
        if not self.response_started:
            self._stream.start_response()
            self.response_started = True

    async def writable(self) -> int:
        """Wait until the caller accepts more: before that, there is no need to hold what will be sent.

        Returns:
            how many bytes it is worth to hold now, at most.
        """
        await self.own_task()
        return await self._stream.writable()

    async def send(self, message: betterproto.Message | bytes) -> None:
        """Send a response message (or its wire form); waits until the kernel has taken it."""
        await self.send_all([encode(message)])

    async def send_all(self, messages: Sequence[WireMessage]) -> None:
        """Send several messages in their wire form, in one go."""
        await self.own_task()
        self.start_response()
        await self._stream.send_messages(messages)

    def send_at_once(self, message: tuple[Buffer, ...]) -> bool:
        """Send one little message, from whatever task, while the call's own waits for what to send. Never waits, nor
        raises. False: it was not sent, and :meth:`send_all` knows why not."""
        return self.response_started and self._stream.send_at_once(message)

    async def answer(self, message: betterproto.Message | bytes) -> None:
        """Send the one response message of a call, and end the call."""
        data = encode(message)
        if self._stream.answer(data):
            self.answered = True
        else:
            await self.send_all([data])

    async def own_task(self) -> None:
        """Go on in a task of the call's own, if this is not one yet. To be awaited before anything that waits, or that
        belongs to a task (a cancel scope, a nursery, a context variable): the turn of the reader is for all calls."""
        if self.in_turn:
            await _own_task()
            await trio.lowlevel.checkpoint_if_cancelled()  # here, where the middleware sees it


@types.coroutine
def _own_task() -> Generator[Any, Any, None]:
    yield OWN_TASK
