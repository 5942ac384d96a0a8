"""Writes the audit log, in a thread of its own: no call waits for the disk, and no disk holds a call up.

So what was done in the last moment before a kill may not have its line. On a disk that takes no lines they are kept, up
to a bound; what is beyond that is counted, and the log itself says how many are missing.
"""

from __future__ import annotations

import math
import os
import queue
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from api.errors import ConfigError
from api.version import VERSION
from jobd.audit.chain import LOST, OPENED, Head
from jobd.audit.file import Memory, end_of, ends_in_a_piece, open_file

log = structlog.get_logger(__name__)

MOST: Final = 20_000
"""Lines that wait for the disk; at some 400 bytes each, and a KiB in memory."""
GROUP: Final = 256
"""Lines that are written at a time."""
RETRY: Final = 0.5
"""Seconds between two attempts at a disk that does not take them."""
PATIENCE: Final = 2.0
"""Seconds for which the end of a server waits for such a disk."""

Line = tuple[str, Mapping[str, Any]]


class AuditLog:
    """Made by :func:`open_audit_log`.

    Attributes:
        written: lines so far.
        lost: lines so far that there was no room for.
    """

    def __init__(self, path: Path, memory: Path) -> None:
        """Take up the file where it was left. Blocks.

        Args:
            memory: a file in the state directory.

        Raises:
            ConfigError: it cannot be used.
        """
        self._path = path
        self._queue: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        self._until = math.inf
        self._failing = False
        self._told_lost = 0
        self.written = self.lost = 0
        with ExitStack() as opened:
            try:
                self._memory = opened.enter_context(closing(Memory(memory)))
                self._fd = open_file(path)
            except OSError as exc:
                raise ConfigError(f"the audit log {path} cannot be used: {exc.strerror}") from exc
            opened.callback(lambda: os.close(self._fd))
            self._piece = ends_in_a_piece(self._fd)
            remembered = self._memory.recall()
            end = end_of(self._fd, path, remembered)
            self._files = opened.pop_all()
        self._head = end.head or remembered
        lacks = max(0, remembered.number - self._head.number)
        if lacks:
            log.error("the audit log lacks its end: somebody cut it", file=str(path), lines=lacks)
            self._head = Head(remembered.number, self._head.sum)
        if end.changed:
            log.error("the audit log was changed while no jobd ran", file=str(path), line=remembered.number)
        found = {"torn": end.torn, "lacks": lacks, "changed": end.changed}
        facts = {"event": OPENED, "version": VERSION, "pid": os.getpid(), **found}
        self._queue.put((_now(), facts))

    def put(self, facts: Mapping[str, Any]) -> None:
        """One more line. Never waits."""
        if self._queue.qsize() >= MOST:
            self.lost += 1
        else:
            self._queue.put((_now(), facts))

    # ---- the thread

    def serve(self) -> None:
        """Write until told to end. Blocks: this is the log's own thread."""
        while (first := self._queue.get()) is not None:
            group, last = self._group(first)
            self._write(group)
            if last:
                return

    def _group(self, first: Line) -> tuple[list[Line], bool]:
        group = [first]
        while len(group) < GROUP:
            try:
                following = self._queue.get_nowait()
            except queue.Empty:
                break
            if following is None:
                return group, True
            group.append(following)
        return group, False

    def _write(self, group: Sequence[Line]) -> None:
        lost = self.lost
        if lost > self._told_lost:
            group = [*group, (_now(), {"event": LOST, "lines": lost - self._told_lost})]
        head, lines = self._head, []
        for moment, facts in group:
            line, head = head.follow(moment, facts)
            lines.append(line)
        if not self._append(b"".join(line + b"\n" for line in lines)):
            self.lost += len(group)
            return
        self._head, self._told_lost = head, lost
        self.written += len(group)
        with suppress(OSError):  # the file itself has it, too
            self._memory.note(head)

    def _append(self, data: bytes) -> bool:
        """Write it, however often that takes; False when the server ends meanwhile."""
        begun = False
        while data:
            try:
                if not begun:
                    self._see_that_it_is_there()
                    data, self._piece = b"\n" * self._piece + data, False
                data = data[os.write(self._fd, data) :]
                begun = True
            except (OSError, ConfigError) as exc:
                self._fail(str(exc))
                if time.monotonic() >= self._until:
                    return False
                time.sleep(RETRY)
        if self._failing:
            log.info("the audit log can be written again", file=str(self._path))
            self._failing = False
        return True

    def _fail(self, why: str) -> None:
        if not self._failing:
            log.error("the audit log cannot be written; lines are kept, and then lost", error=why)
        self._failing = True

    def _see_that_it_is_there(self) -> None:
        """One that was rotated is let go, and a new one begun, in which the chain goes on."""
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._fd), self._path.lstat()):
                return
        fresh = open_file(self._path)
        with suppress(OSError):
            os.fdatasync(self._fd)
        os.close(self._fd)
        self._fd, self._piece = fresh, ends_in_a_piece(fresh)

    def end(self) -> None:
        """Let the thread end when it has written what came before. A disk that takes nothing is not waited for long."""
        self._until = time.monotonic() + PATIENCE
        self._queue.put(None)

    def close(self) -> None:
        """Let go of the files. Blocks."""
        with suppress(OSError):
            os.fdatasync(self._fd)
        self._files.close()
        if self._failing:
            log.error("the audit log has no lines of the end", file=str(self._path), lines=self.lost)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


@asynccontextmanager
async def open_audit_log(path: Path, memory: Path) -> AsyncIterator[AuditLog]:
    """Open it; the block is the life of its thread. On the way out, what came before is written first.

    Raises:
        ConfigError: as :class:`AuditLog`.
    """
    audit_log = await trio.to_thread.run_sync(AuditLog, path, memory)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, audit_log.serve)
            try:
                yield audit_log
            finally:
                audit_log.end()
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(audit_log.close)
