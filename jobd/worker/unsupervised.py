"""The processes of a job whose supervisor has failed: ended from outside, without the help of what failed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import structlog
import trio

from jobd.worker.ports import Process, Source

log = structlog.get_logger(__name__)

PAUSE: Final = 0.05
"""Seconds between two looks at a process group that should be empty."""


@contextmanager
def contained(what: str, job_id: str) -> Iterator[None]:
    """Whatever goes wrong in the block is a line in the log, and no more."""
    try:
        yield
    except Exception as exc:  # it costs this job, and no other
        log.error(what, job=job_id, exc_info=exc)


def close_pipes(job_id: str, process: Process) -> None:
    """Let go of pipes that have no reader."""
    for source in Source:
        # One that never arrived here is an OSError.
        with contained("a pipe of a job that is not supervised cannot be closed", job_id), suppress(OSError):
            process.pipe(source).close()


async def end_processes(job_id: str, process: Process, *, grace: float, kill: float) -> tuple[int | None, bool]:
    """SIGTERM to the group, SIGKILL after ``grace`` seconds, and no more than ``kill`` seconds of waiting after that.

    Returns:
        The wait status, if anybody knows it; and whether the group is seen to be empty. Nothing is raised.
    """
    status = None
    for signals, patience in (((signal.SIGTERM, signal.SIGCONT), grace), ((signal.SIGKILL,), kill)):
        with contained("a job that is not supervised cannot be ended", job_id), trio.move_on_after(patience):
            for signum in signals:
                await process.signal(signum)
            status = await process.exited()
            while not await process.is_empty():  # noqa: ASYNC110 # the kernel has no event for that
                await trio.sleep(PAUSE)
            return status, True
    return status, False


def how_it_was_left(process: Process | None, status: int | None, *, gone: bool) -> str:
    """What is known of the processes, in words."""
    if process is None:
        return "whether its process was started is not known"
    if not gone:
        return f"processes of it may run on: see process group {process.pid}"
    if status is None:
        return "its process has ended, and nobody can tell how"
    if os.WIFSIGNALED(status):
        return f"its process was ended by signal {os.WTERMSIG(status)}"
    return f"its process exited with code {os.WEXITSTATUS(status)}"
