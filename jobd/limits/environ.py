"""The marks in the environments of processes, as far as they can be read in time.

``/proc/PID/environ`` is read through the process's memory (proc_pid_environ(5)): who keeps that locked, on purpose or
since a file that it has mapped is on a file system that does not answer, holds the reader, whom nothing but its own end
frees then. No stop of any job may wait for that. So a thread reads; when it does not come back it is left to itself.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import structlog

from jobd.worker.containment import MARK_VARIABLE

log = structlog.get_logger(__name__)

MOST: Final = 256 * 1024
"""Bytes of each that are looked at: somebody's can be many MiB, and there can be many of them."""
PATIENCE: Final = 1.0
"""Seconds that one may take."""
MAX_STUCK: Final = 32
"""Processes that do not answer, each of which has a thread waiting for it; with more, none is read."""
_VARIABLE: Final = b"\0" + f"{MARK_VARIABLE}=".encode()

Named = tuple[int, int]
"""A process: its pid, and its start in ticks since boot."""


def environment_of(pid: int) -> bytes:
    """The beginning of it; nothing of one that has gone, or that may not be read. May never return."""
    with contextlib.suppress(OSError):
        fd = os.open(f"/proc/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, MOST)
        finally:
            os.close(fd)
    return b""


def marks_in(environment: bytes) -> Iterator[bytes]:
    """What the variable that tells whose a process is has for values, however often it is there."""
    text = b"\0" + environment
    at = text.find(_VARIABLE)
    while at >= 0:
        begin = at + len(_VARIABLE)
        at = text.find(b"\0", begin)
        yield text[begin:] if at < 0 else text[begin:at]
        at = text.find(_VARIABLE, at) if at >= 0 else at


class Environments:
    """Those of all processes, as they are asked for. One thread at a time asks."""

    def __init__(self, read: Callable[[int], bytes] = environment_of, patience: float = PATIENCE) -> None:
        self._read = read
        self._patience = patience
        self._stuck: dict[Named, threading.Thread] = {}

    def marks(self, processes: Sequence[Named]) -> Iterator[tuple[int, bytes]]:
        """The pids of those that have a mark, and it. Blocks; for :data:`PATIENCE` at the most for each that had not
        kept somebody waiting before."""
        self._stuck = {named: thread for named, thread in self._stuck.items() if thread.is_alive()}
        left = [named for named in processes if named not in self._stuck]
        while left and len(self._stuck) < MAX_STUCK:
            reader = _Reader(self._read, left)
            reader.start()
            reader.wait(self._patience)
            yield from list(reader.found)
            left = left[reader.done :]
            if left:
                stuck, left = left[0], left[1:]
                self._stuck[stuck] = reader
                log.warning("the environment of a process cannot be read", pid=stuck[0])


class _Reader(threading.Thread):
    """Reads one after another.

    Attributes:
        done: how many of them it has read.
    """

    def __init__(self, read: Callable[[int], bytes], processes: Sequence[Named]) -> None:
        super().__init__(name="environments", daemon=True)  # the end of the process is the end of its wait
        self._read = read
        self._processes = processes
        self._news = threading.Condition()
        self._left = False
        self.done = 0
        self.found: list[tuple[int, bytes]] = []

    def run(self) -> None:
        for pid, _ in self._processes:
            found = [(pid, mark) for mark in marks_in(self._read(pid))]
            with self._news:
                if self._left:
                    return
                self.found += found
                self.done += 1
                if self.done == len(self._processes):
                    self._news.notify()

    def wait(self, patience: float) -> None:
        """Until all are read, or one takes longer than this: then nothing is read any more."""
        with self._news:
            before = -1
            while self.done < len(self._processes) and before < self.done:
                before = self.done
                self._news.wait(patience)
            self._left = True
