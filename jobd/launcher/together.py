"""Short work that may block, of many tasks. What is a few system calls that the kernel answers at once is done in the
loop: to go to a thread and back costs more, and a thread that makes system calls takes the interpreter's lock from the
loop, and gives it back, at each of them. Where such work was not short after all, that of the next second, and other
work always, is done in a thread: what is asked for while a turn is under way, in the next one, all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, Generic, TypeVar

import outcome
import trio
from trio.lowlevel import RunVar

T = TypeVar("T")

LONG: Final = 0.01
"""Seconds that no work in the loop may take. Who moves processes from one control group to another holds a lock of the
kernel until every processor has been elsewhere, and whoever makes a group meanwhile waits for that: 15 ms, and more."""
PAUSE: Final = 1.0
"""Seconds from such work on, in which there is none in the loop, at least."""
SHARE: Final = 100
"""So many times as long as the work took, if that is more: whoever makes it long, with hundreds of processes that wait
for that lock before us, has a hundredth of the loop's time."""


@dataclass(eq=False)
class _Work(Generic[T]):
    """What somebody waits for."""

    run: Callable[[], T]
    result: outcome.Outcome[T] | None = None


class _Turns:
    """Those of one event loop."""

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.waiting: list[_Work[Any]] = []
        self.not_before = 0.0  # when work may be done in the loop again


_turns: RunVar[_Turns] = RunVar("turns of blocking work")


async def in_turn(run: Callable[[], T], *, prompt: bool = False) -> T:
    """Do this; raises what it raises. For short work alone: it holds up the next turn. Once it is asked for, it is
    done, and waited for.

    Args:
        prompt: it is a few system calls that the kernel answers at once, most of the time.
    """
    try:
        turns = _turns.get()
    except LookupError:
        turns = _Turns()
        _turns.set(turns)
    await trio.lowlevel.checkpoint_if_cancelled()
    if prompt and (begun := perf_counter()) >= turns.not_before:
        try:
            return run()
        finally:
            if (took := (now := perf_counter()) - begun) > LONG:
                turns.not_before = now + max(PAUSE, took * SHARE)
    work = _Work(run)
    turns.waiting.append(work)
    with trio.CancelScope(shield=True):
        async with turns.lock:
            if work.result is None:  # else somebody before us has done it with his own
                batch, turns.waiting = turns.waiting, []
                try:
                    await trio.to_thread.run_sync(_do, batch)
                except RuntimeError as exc:  # there is no thread to be had, for any of them
                    for each in batch:
                        each.result = outcome.Error(exc)
    assert work.result is not None
    return work.result.unwrap()


def _do(batch: list[_Work[Any]]) -> None:
    for work in batch:
        work.result = outcome.capture(work.run)
