"""The same call about several jobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import trio

from api.errors import JobdError
from jobcli import exit_codes, render

AT_ONCE: Final = 50
"""Calls that are made at the same time."""
Answer = TypeVar("Answer")


async def of_each(
    ids: Sequence[str], call: Callable[[str], Awaitable[Answer]], tell: Callable[[Answer], None] = lambda _: None
) -> int:
    """Make a call about each job, at the same time. An error is said, and keeps nobody else from being asked about.

    Args:
        tell: prints an answer. The answers and errors come in the order of the ids, each as soon as those before it.

    Returns:
        the exit code.
    """
    answers: dict[int, Answer | JobdError] = {}
    there = [trio.Event() for _ in ids]
    waiting = iter(enumerate(ids))

    async def work() -> None:
        for place, job_id in waiting:
            try:
                answers[place] = await call(job_id)
            except JobdError as exc:
                answers[place] = exc
            there[place].set()

    code = 0
    async with trio.open_nursery() as nursery:
        for _ in ids[:AT_ONCE]:
            nursery.start_soon(work)
        for place, event in enumerate(there):
            await event.wait()
            answer = answers[place]
            if isinstance(answer, JobdError):
                render.error(str(answer))
                code = exit_codes.OUR_FAILURE
            else:
                tell(answer)
    return code
