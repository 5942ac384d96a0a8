"""What a job writes, on its way to somebody who listens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from api.rpc.server import ServerCall
from jobd.service.translate import output_message
from jobd.worker.ports import MOST, Follower, Gap, Record, Source

LITTLE: Final = 16 * 1024
"""Bytes of the largest record that goes out in the turn in which it was recorded, if one frame has room for it."""


class Listener:
    """A call that gives what a follower has, event after event.

    A record that is little, and comes while the call waits for it, is sent in the turn in which it was recorded: to
    wake the call's task for it would be a quarter of a line's way.
    """

    def __init__(self, call: ServerCall, follower: Follower, heartbeat: float, source: Source | None = None) -> None:
        """
        Args:
            heartbeat: seconds.
            source: the stream that is wanted, if not both are.
        """
        self._call = call
        self._follower = follower
        self._heartbeat = heartbeat
        self._source = source
        self._quiet_since = 0.0
        self._interrupted = False
        self._waiting = trio.CancelScope()

    async def receive(self) -> Sequence[Record | Gap] | None:
        """What comes next of what is wanted, and was not sent yet: as much of it as the caller accepts now. Empty at
        the end; None when nothing was sent for so long that a sign of life is due, or when it was interrupted."""
        self._interrupted = False
        self._quiet_since = trio.current_time()  # whatever is given is sent
        while True:
            room = min(await self._call.writable(), MOST)
            events: Sequence[Record | Gap] | None = None
            if self._follower.at_hand(room):  # no quiet stream, and no scope for its heartbeat
                events = await self._follower.receive(room)
            elif not self._interrupted:
                with trio.move_on_at(self._quiet_since + self._heartbeat) as self._waiting:
                    events = await self._follower.receive(room, self._take)
            if events is not None and (not events or (events := [each for each in events if self._wants(each)])):
                return events
            if self._interrupted or trio.current_time() >= self._quiet_since + self._heartbeat:
                return None

    def interrupt(self) -> None:
        """There is something else to say: whoever waits for what comes next is to wait no longer."""
        self._interrupted = True
        self._waiting.cancel()

    def _take(self, record: Record) -> bool:
        if not self._wants(record):
            return True
        if len(record.data) > LITTLE or not self._call.send_at_once(output_message(record)):
            self._waiting.cancel()  # to ask how much the caller accepts by now
            return False
        self._quiet_since = trio.current_time()
        return True

    def _wants(self, event: Record | Gap) -> bool:
        return self._source is None or isinstance(event, Gap) or event.source is self._source
