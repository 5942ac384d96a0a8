"""``Attach``: the one call in which both sides speak.

One task reads requests, and reads the next one when the last was written into the job's stdin: a job that does not
read holds its writer up, by way of the call's window, and nothing is kept here meanwhile. Another one does all the
sending, so how far stdin has come is told between two pieces of output, in one message however many were written.
"""

from __future__ import annotations

import betterproto
import trio

from api import messages as m
from api.background import background_nursery
from api.errors import RpcError
from api.identity import Principal
from api.rpc.server import ServerCall
from jobd.broker.attach import attach
from jobd.broker.broker import Broker
from jobd.service import translate as t
from jobd.service.listener import Listener
from jobd.service.refusal import refuse
from jobd.service.translate_stdin import accepted_message, attached_message, attacher_of, size_of
from jobd.worker.errors import NoTerminalError, WorkerError
from jobd.worker.job import JobCell
from jobd.worker.ports import Follower
from jobd.worker.stdin import Attachment


async def serve_attachment(
    call: ServerCall, broker: Broker, heartbeat: float, by: Principal, start: m.AttachStart
) -> None:
    """Answer one call.

    Args:
        heartbeat: seconds after which a quiet call gets a sign of life.
        by: who calls.
        start: what it began with (:func:`first_of`).
    """
    call.job_id = start.job_id
    who, where = attacher_of(start, by.name), t.start_of(start)
    size = None if start.window_size is None else size_of("start.window_size", start.window_size)
    entry = await broker.writable(start.job_id, by=by.name, roles=by.roles)
    spec = entry.cell.job.spec
    if size is not None and spec.attachable and spec.terminal is None:
        raise NoTerminalError  # now: who is refused has taken nothing over
    while True:
        with trio.move_on_after(heartbeat):
            attachment, follower, cell = await attach(entry, where, who, take_over=start.take_over)
            break
        # The events of Stream have the same numbers here.
        await call.send(t.heartbeat_message(where.offset or 0, entry.cell.job.attempt))
    try:
        if size is not None:
            attachment.resize(size)
        await call.send(attached_message(cell.job, follower.offset, attachment))
        await _Conversation(call, heartbeat, attachment, follower, cell).run()
    finally:
        attachment.detach()
        follower.close()


async def first_of(call: ServerCall) -> m.AttachStart:
    """The first message of a call.

    Raises:
        InvalidArgumentError: it is another one.
    """
    request = await call.receive_next()
    start = None if request is None else betterproto.which_one_of(request, "request")[1]
    if not isinstance(start, m.AttachStart):
        raise refuse("start", "is not the first message of the call")
    return start


class _Conversation:
    """From when somebody is attached until the call ends."""

    def __init__(
        self, call: ServerCall, heartbeat: float, attachment: Attachment, follower: Follower, cell: JobCell
    ) -> None:
        self._call = call
        self._attachment = attachment
        self._follower = follower
        self._cell = cell
        self._accepted = 0
        self._told = (0, attachment.closed, False)
        self._listener = Listener(call, follower, heartbeat)
        self._over = trio.CancelScope()
        self._failure: RpcError | WorkerError | None = None

    async def run(self) -> None:
        try:
            with self._over:
                async with background_nursery() as nursery:
                    nursery.start_soon(self._take_input)
                    nursery.start_soon(self._watch)
                    await self._give_output()
        finally:
            self._call.standing["accepted"] = str(self._accepted)
        if self._failure:
            raise self._failure

    def _fail(self, why: RpcError | WorkerError) -> None:
        """The call is to end with this error. (In a nursery, raising it would make a group of it.)"""
        self._failure = why
        self._over.cancel()

    async def _watch(self) -> None:
        await self._attachment.lost.wait()
        try:
            self._attachment.check()
        except WorkerError as exc:
            self._fail(exc)

    # ---- in

    async def _take_input(self) -> None:
        """Until the caller sends no more, which says nothing about the job's stdin."""
        try:
            while (request := await self._call.receive_next()) is not None:
                await self._obey(request)
                if self._told != self._standing:
                    self._listener.interrupt()
        except (RpcError, WorkerError) as exc:
            self._fail(exc)

    async def _obey(self, request: betterproto.Message) -> None:
        match betterproto.which_one_of(request, "request")[1]:
            case bytes() as data:
                await self._write(memoryview(data))
            case m.CloseStdin():
                await self._attachment.close()
            case m.WindowSize() as size:
                self._attachment.resize(size_of("resize", size))
            case m.AttachStart():
                raise refuse("start", "is for the first message of the call only")
            case _:
                raise refuse("request", "is empty")

    async def _write(self, data: memoryview) -> None:
        while data:
            written = await self._attachment.write(data)
            data = data[written:]
            if not self._attachment.refused:
                self._accepted += written
                self._listener.interrupt()

    @property
    def _standing(self) -> tuple[int, bool, bool]:
        """How far stdin has come, whether it is closed, and whether the job has closed its end."""
        return self._accepted, self._attachment.closed, self._attachment.refused

    # ---- out

    async def _give_output(self) -> None:
        while True:
            await self._call.writable()  # what is told is how it stands then
            if await self._tell_standing():
                continue
            events = await self._listener.receive()
            if events:
                await self._call.send_all([t.event_message(event) for event in events])
            elif events is not None:
                break
            elif self._told == self._standing:
                await self._call.send(t.heartbeat_message(self._follower.offset, self._cell.job.attempt))
        job = await self._cell.ended()
        await self._tell_standing()
        await self._call.send(t.verdict_message(job))

    async def _tell_standing(self) -> bool:
        """Say how far stdin has come, if that is news."""
        standing = self._standing
        if standing == self._told:
            return False
        self._told = standing
        count, closed, refused = standing
        await self._call.send(accepted_message(count, closed=closed, refused=refused))
        return True
