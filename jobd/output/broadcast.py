"""One writer, many live readers, each behind a bounded memory channel.

A reader that falls behind does not hold up the writer, nor the others: its channel is closed, it is told that it
lags, and it goes on from the disk.
"""

from __future__ import annotations

from typing import Final

import trio

from jobd.worker.ports import Gap, Record

BUFFER: Final = 16
"""Records that a live reader may be behind; all readers share the bytes of a record."""


class Subscription:
    """One reader's end.

    Attributes:
        lagging: records were left out; what comes out of :meth:`receive` before it ends has no gap.
    """

    def __init__(self, broadcast: Broadcast, buffer: int) -> None:
        self._broadcast = broadcast
        self._send, self._receive = trio.open_memory_channel[Record | Gap](buffer)
        self.lagging = False

    def offer(self, record: Record | Gap) -> bool:
        """Hand over a record, or let the reader lag. Never waits."""
        try:
            self._send.send_nowait(record)
        except trio.WouldBlock:
            self.lagging = True
            self._send.close()
            return False
        return True

    async def receive(self) -> list[Record | Gap]:
        """Wait for records; empty when the broadcast has ended, or the reader lags."""
        try:
            records: list[Record | Gap] = [await self._receive.receive()]
        except trio.EndOfChannel:
            return []
        try:
            while True:
                records.append(self._receive.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return records

    def end(self) -> None:
        """Nothing more will be offered."""
        self._send.close()

    def close(self) -> None:
        """The reader leaves."""
        self._broadcast.leave(self)
        self._send.close()
        self._receive.close()


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

    def leave(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    def end(self) -> None:
        """No more records: the readers end when they have taken what is in their channels."""
        for subscription in self._subscriptions:
            subscription.end()
        self._subscriptions.clear()

    @property
    def readers(self) -> int:
        """How many follow live now."""
        return len(self._subscriptions)
