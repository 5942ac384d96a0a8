"""One writer, many live readers, each behind a bounded queue.

A reader that falls behind does not hold up the writer, nor the others: it is told that it lags, what was queued for
it is let go, and it goes on from the disk. So what all readers of a job together keep alive is what was published last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import takewhile
from typing import Final

import trio

from jobd.worker.ports import Gap, Record

BUFFER: Final = 16
"""Records that a live reader may be behind; all readers share the bytes of a record."""
BUFFER_BYTES: Final = 1024 * 1024
"""The same, in bytes."""


class Subscription:
    """One reader's end.

    Attributes:
        lagging: records were left out; what comes out of :meth:`receive` before it ends has no gap.
    """

    def __init__(self, broadcast: Broadcast, buffer: int) -> None:
        self._broadcast = broadcast
        self._buffer = buffer
        self._queue: deque[Record | Gap] = deque()
        self._held = 0  # bytes in the queue
        self._arrived = trio.Event()
        self._ended = False
        self._taker: Callable[[Record | Gap], bool] | None = None  # of a reader that waits
        self.lagging = False

    def offer(self, record: Record | Gap) -> bool:
        """Hand over a record, or let the reader lag. Never waits."""
        if self._taker is not None and not self._queue and self._taker(record):
            return True
        held = self._held + _size(record)
        if self._queue and (len(self._queue) >= self._buffer or held > BUFFER_BYTES):
            self.lag()
            return False
        self._queue.append(record)
        self._held = held
        self._arrived.set()
        return True

    def lag(self) -> None:
        """Let go of everything from the first record on: it is on disk. (Gaps before it are not found there again.)"""
        self.lagging = True
        gaps = list(takewhile(lambda record: isinstance(record, Gap), self._queue))
        self._queue = deque(gaps)
        self._held = 0
        self.end()

    async def receive(self, limit: int, taker: Callable[[Record | Gap], bool] | None = None) -> list[Record | Gap]:
        """Wait for records; empty when the broadcast has ended, or the reader lags.

        Args:
            limit: bytes that are wanted at most; a record that is longer is cut.
            taker: is offered what comes while this waits, in the writer's turn; what it takes (True) is not given here.
        """
        if self._queue or self._ended:
            await trio.lowlevel.checkpoint()
        while not self._queue:
            if self._ended:
                return []
            self._arrived = trio.Event()
            self._taker = taker
            try:
                await self._arrived.wait()
            finally:
                self._taker = None
        records: list[Record | Gap] = []
        while self._queue and (size := _size(self._queue[0])) <= limit:
            records.append(self._queue.popleft())
            self._held -= size
            limit -= size
        first = self._queue[0] if self._queue and not records else None
        if isinstance(first, Record):
            records.append(replace(first, data=first.data[:limit]))
            self._queue[0] = replace(first, offset=first.offset + limit, data=first.data[limit:])
            self._held -= limit
        return records

    def end(self) -> None:
        """Nothing more will be offered."""
        self._ended = True
        self._arrived.set()

    def close(self) -> None:
        """The reader leaves."""
        self._broadcast.leave(self)
        self._queue.clear()
        self.end()


def _size(record: Record | Gap) -> int:
    return len(record.data) if isinstance(record, Record) else 0


class Broadcast:
    """The writer's end."""

    def __init__(self, buffer: int = BUFFER) -> None:
        self._buffer = buffer
        self._subscriptions: set[Subscription] = set()

    def subscribe(self) -> Subscription:
        """Receive every record that is published from now on."""
        subscription = Subscription(self, self._buffer)
        self._subscriptions.add(subscription)
        return subscription

    def publish(self, record: Record | Gap) -> None:
        """Give a record to every reader that keeps up. Never waits."""
        lagging = [s for s in self._subscriptions if not s.offer(record)]
        self._subscriptions.difference_update(lagging)

    def leave_behind(self) -> None:
        """So much was written at once that whoever reads has to read it from the disk."""
        for subscription in self._subscriptions:
            subscription.lag()
        self._subscriptions.clear()

    def leave(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    def end(self) -> None:
        """No more records: the readers end when they have taken what is in their queues."""
        for subscription in self._subscriptions:
            subscription.end()
        self._subscriptions.clear()

    @property
    def readers(self) -> int:
        """How many follow live now."""
        return len(self._subscriptions)
