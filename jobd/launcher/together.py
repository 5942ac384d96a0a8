"""Blocking work of many tasks, done in one thread: what is asked for while a turn is under way is done in the next one,
all of it. To go to a thread and back costs more than most of what is done there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import outcome
import trio
from trio.lowlevel import RunVar

T = TypeVar("T")


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


_turns: RunVar[_Turns] = RunVar("turns of blocking work")


async def in_turn(run: Callable[[], T]) -> T:
    """Do this in a thread, with what others want done; raises what it raises. For short work alone: it holds up the
    next turn. Once it is asked for, it is done, and waited for."""
    try:
        turns = _turns.get()
    except LookupError:
        turns = _Turns()
        _turns.set(turns)
    await trio.lowlevel.checkpoint_if_cancelled()
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
