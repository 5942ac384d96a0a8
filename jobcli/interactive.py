"""Being attached to a job: what is typed goes to it, what it writes comes here, and keys or a signal detach."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import trio

from api.attachment import Attachment
from api.client import JobClient
from api.errors import InputCutError, JobdError
from api.messages import JobState, Verdict
from jobcli import exit_codes, render, tty
from jobcli.detach import DetachKeys
from jobcli.stdin import Input, open_input

HANGUP: Final = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
"""Signals that detach, whatever else is done with others: they would end us, and leave the terminal raw."""
OF_TERMINAL: Final = (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)
"""Those that say something of a terminal, or of us at it."""
TYPED_AHEAD: Final = 1000
"""Reads from a terminal that are kept while the server cannot be reached; beyond them, what is typed waits."""
LAST_WORDS: Final = 1.0
"""Seconds that what was typed before the detach keys has to get to the job."""


@dataclass
class Detached:
    """We are, and the job goes on.

    Attributes:
        code: to end with: 0 after the keys, else as a signal has it.
    """

    code: int


async def interact(
    client: JobClient,
    job_id: str,
    *,
    keys: bytes | None,
    detaching: Iterable[signal.Signals] = HANGUP,
    redraw: bool = False,
    **where: Any,
) -> Verdict | Detached:
    """Attach until the job has ended, or until detached.

    Args:
        keys: the job has a terminal: ours becomes raw, and these keys detach. None for a job with a pipe.
        detaching: the signals that detach.
        redraw: have the job's terminal change its size for a moment, so that what fills the screen draws it again.
        where: where in the output to begin, and so on, as for :meth:`JobClient.attach`.
    """
    if keys is not None:
        rows, columns = tty.size()
        where["size"] = (rows, columns - 1 or 2) if redraw else (rows, columns)
    watched = {*detaching, *(OF_TERMINAL if keys is not None else ())}
    async with client.attach(job_id, **where) as attachment:
        with ExitStack() as stack:
            # Around raw mode: what nobody has taken from it is raised again where it is closed, and may end us.
            signals = stack.enter_context(trio.open_signal_receiver(*watched))
            input_ = stack.enter_context(open_input())
            mode = stack.enter_context(tty.raw_mode()) if keys is not None else None
            session = _Session(attachment, mode)
            return await session.run(input_, DetachKeys(keys or b""), signals)


class _Session:
    """From when we are attached."""

    def __init__(self, attachment: Attachment, mode: tty.RawMode | None) -> None:
        self._attachment = attachment
        self._mode = mode
        self._scope = trio.CancelScope()
        self._fed = trio.Event()
        self._detached: Detached | None = None

    async def run(self, input_: Input, keys: DetachKeys, signals: AsyncIterator[int]) -> Verdict | Detached:
        fed, typed = trio.open_memory_channel[bytes](TYPED_AHEAD if self._mode else 0)
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._obey, signals)
                nursery.start_soon(self._read, input_, keys, fed)
                nursery.start_soon(self._feed, typed)
                try:
                    while piece := await self._attachment.receive(render.output_at_once):
                        await render.output(piece)
                except InputCutError as exc:
                    again = f"the job goes on, and 'jobcli attach {self._attachment.job_id[:8]}' attaches again"
                    raise JobdError(f"{exc}; {again}") from exc
                nursery.cancel_scope.cancel()
        if self._attachment.verdict:
            return self._attachment.verdict
        assert self._detached
        return self._detached

    def _detach(self, code: int) -> None:
        self._detached = Detached(code)
        self._scope.cancel()

    async def _read(self, input_: Input, keys: DetachKeys, fed: trio.MemorySendChannel[bytes]) -> None:
        """Look for the keys in what is typed, also while it cannot be sent."""
        code = exit_codes.SIGNAL_BASE + signal.SIGHUP  # the terminal has gone
        try:
            async with fed:
                while data := await input_.receive():
                    sent, detached = keys.feed(data)
                    await fed.send(sent)
                    if detached:
                        code = 0
                        break
        except trio.BrokenResourceError:
            return  # nobody takes it any more
        if self._mode:
            with trio.move_on_after(LAST_WORDS):
                await self._fed.wait()
            self._detach(code)

    async def _feed(self, typed: trio.MemoryReceiveChannel[bytes]) -> None:
        try:
            async with typed:
                async for data in typed:
                    await self._attachment.send(data)
            await (self._attachment.flush() if self._mode else self._attachment.close_stdin())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the job reads no more, or has ended: what it writes yet is written
        self._fed.set()

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        if self._mode:
            await self._resize()
        async for signum in signals:
            if signum == signal.SIGWINCH:
                await self._resize()
            elif signum == signal.SIGTSTP and self._mode:  # somebody else's: ours would be a byte for the job
                self._mode.leave()
                os.kill(os.getpid(), signal.SIGSTOP)
            elif signum == signal.SIGCONT and self._mode:
                self._mode.enter()
                await self._resize()
            else:
                self._detach(exit_codes.SIGNAL_BASE + signum)

    async def _resize(self) -> None:
        await self._attachment.resize(*tty.size())


def ended(job_id: str, end: Verdict | Detached) -> int:
    """Say what there is to say of the end, and give the code to end with."""
    if isinstance(end, Detached):
        render.note(f"detached from job {job_id[:8]}, which goes on; 'jobcli attach {job_id[:8]}' attaches again")
        return end.code
    if end.dropped_bytes:
        render.note(f"{end.dropped_bytes} bytes of output could not be recorded and are missing")
    if end.exit_code is None or end.state not in (JobState.SUCCEEDED, JobState.FAILED):  # somebody ended it
        render.error(f"job {job_id[:8]} {render.state_name(end.state)}: {end.message}")
    return exit_codes.of_end(end)
