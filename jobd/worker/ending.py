"""Ends a job's processes, all of them, and keeps the receipt.

The order: a polite signal to all (or to the main process alone), SIGCONT since a stopped process cannot react, the
grace period, SIGKILL to all. It is over when no process of the job is left; what does not go is said to be there, and
that only when it was seen: on a machine where a look takes as long as the patience, time alone proves nothing.
"""

from __future__ import annotations

import enum
import math
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import structlog
import trio

from jobd.worker.containment import MAX_RECEIPT, Member, Receipt, Stopped
from jobd.worker.ports import Process

log = structlog.get_logger(__name__)

POLL_FIRST: Final = 0.001
POLL_LONGEST: Final = 0.05
"""Seconds between two looks at what should be empty; not every kind of containment has an event for that. Where a look
takes longer itself, it is as long as the look: a slow machine has more to do than to look."""
LATER: Final = 1.0
"""Seconds between two attempts at what was given up."""


class StopMode(enum.StrEnum):
    """Who gets the polite signal. SIGKILL is for all, always."""

    GROUP = "group"
    MAIN = "main"


class Ending:
    """The end of one job, if and when it is wanted.

    Attributes:
        survived: processes were still there when we gave up.
        given_up: set then; another one when what is left gets its time anew.
    """

    def __init__(
        self,
        patience: float,
        clock: Callable[[], int],
        record: Callable[[Receipt], Awaitable[None]],
        before: Receipt | None,
    ) -> None:
        """
        Args:
            patience: seconds after SIGKILL was sent to all from which on what is seen there is given up.
            record: sees that the wish is on record, and what was found, before anybody is sent anything: after a crash
                the receipt has those too that had ended by then.
            before: what was so recorded of the job, before this process.
        """
        self._record = record
        self._patience = patience
        self._clock = clock
        self._wanted = False
        self._begin: Callable[[], None] | None = None
        self._until_kill = trio.CancelScope()
        self._polite = signal.SIGTERM
        self._mode = StopMode.GROUP
        self._seen = {stopped.member.pid: stopped for stopped in before.processes} if before else {}
        self._unseen = before.found - len(self._seen) if before else 0
        self._begun = before.begun_at if before else None
        self._give_up_at = math.inf
        self.survived = False
        self.given_up = trio.Event()

    def want(self, grace: float, polite: int = signal.SIGTERM, mode: StopMode = StopMode.GROUP) -> None:
        """Ask for the end: SIGKILL comes ``grace`` seconds from now at the latest. Asked again, it can only come
        sooner, and nobody is asked politely again."""
        first, self._wanted = not self._wanted, True
        if first:
            self._polite, self._mode = signal.Signals(polite), mode
        self._until_kill.deadline = min(self._until_kill.deadline, trio.current_time() + grace)
        if first and self._begin:
            self._begin()

    def watch(self, nursery: trio.Nursery, process: Process) -> None:
        """From now on, bring the end about when it is wanted, in this nursery; cancelled when no process is left. Most
        jobs end by themselves, and need no task for it."""
        self._begin = partial(nursery.start_soon, self.run, process)
        if self._wanted:
            self._begin()

    def watch_no_more(self) -> None:
        """The nursery is to end: whoever wants the end now has it."""
        self._begin = None

    async def run(self, process: Process) -> None:
        """Bring the end about; cancelled when no process is left."""
        begun = trio.current_time()
        polite = self._until_kill.deadline > begun
        first = self._begun is None
        self._begun = self._begun or self._clock()
        await self._note(
            process, self._polite if polite else signal.SIGKILL, main_only=polite and self._mode is StopMode.MAIN
        )
        await self._record(self._receipt(process, took=0, empty=False))
        self._begun = self._clock() if first else self._begun
        self._until_kill.deadline += trio.current_time() - begun  # the grace period begins with the first signal
        if polite:
            if self._mode is StopMode.MAIN:
                process.signal_main(self._polite)
            else:
                await process.signal(self._polite)
            await process.signal(signal.SIGCONT)
            with self._until_kill:
                await trio.sleep_forever()
        await self._kill(process)

    async def _kill(self, process: Process) -> None:
        """Again and again: without a kernel that does it at one stroke, somebody may have been forked meanwhile; and
        what was given up is to end when it can, though nobody waits for it any more."""
        pause = POLL_FIRST
        while True:
            looked_at = trio.current_time()
            if await self._note(process, signal.SIGKILL) and looked_at >= self._give_up_at:
                if not self.given_up.is_set():
                    log.error("processes of a job are still there after SIGKILL", pid=process.pid)
                self.survived = True
                self.given_up.set()
            await process.kill()
            if self._give_up_at == math.inf:
                self._give_up_at = trio.current_time() + self._patience
            took = trio.current_time() - looked_at
            await trio.sleep(max(LATER if self.given_up.is_set() else pause, took))
            pause = min(pause * 2, POLL_LONGEST)

    async def clear(self, process: Process, grace: float) -> None:
        """The main process has ended: see that nobody else is left, or end them; until nobody is, however long."""
        pause, looked_at = POLL_FIRST, trio.current_time()
        if not await self._is_over(process):
            self.want(grace)
            if self.given_up.is_set():  # what held the main process has let go; the others get their time too
                self._give_up_at, self.given_up = trio.current_time() + self._patience, trio.Event()
            while True:
                longest = LATER if self.given_up.is_set() else pause
                await trio.sleep(max(longest, trio.current_time() - looked_at))
                pause, looked_at = min(pause * 2, POLL_LONGEST), trio.current_time()
                if await self._is_over(process):
                    break
        self.survived = False

    async def _is_over(self, process: Process) -> bool:
        """Nobody is left. What a stop answers for is looked for more closely than what ended by itself."""
        return await process.is_empty() and (not self._wanted or not await process.members())

    async def _note(self, process: Process, signum: int, *, main_only: bool = False) -> bool:
        """Keep who is there, and what they are sent, or the main one alone is; whether there is anybody."""
        members = await process.members()
        main = process.main_pid if main_only else 0
        for member in members:
            if main_only and member.pid != main:
                self._seen.setdefault(member.pid, Stopped(member))
            else:
                self._seen[member.pid] = Stopped(member, signum)
        return bool(members)

    async def receipt(self, process: Process) -> Receipt | None:
        """What was found and ended; None when nothing had to be."""
        if self._begun is None:
            return None
        left: dict[int, Member] = {member.pid: member for member in await process.members()}
        self._seen.update({pid: Stopped(member) for pid, member in left.items()})
        return self._receipt(process, took=max(0, self._clock() - self._begun), empty=not left and not self.survived)

    def _receipt(self, process: Process, *, took: int, empty: bool) -> Receipt:
        processes = tuple(self._seen.values())
        found = len(processes) + self._unseen
        return Receipt(processes[:MAX_RECEIPT], found, took, empty, process.proof, self._begun or 0)
