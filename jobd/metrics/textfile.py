"""The metrics in a file, for node_exporter's textfile collector: whole at every moment, and written again and again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
import trio

log = structlog.get_logger(__name__)


async def keep_written(path: Path, interval: float, text: Callable[[], Awaitable[bytes]]) -> None:
    """Write it every ``interval`` seconds until cancelled. A disk that does not take it is tried again."""
    failing = False
    while True:
        try:
            await trio.to_thread.run_sync(write, path, await text())
        except OSError as exc:
            if not failing:
                log.error("the file of metrics cannot be written", file=str(path), error=exc.strerror)
            failing = True
        else:
            if failing:
                log.info("the file of metrics can be written again", file=str(path))
            failing = False
        await trio.sleep(interval)


def write(path: Path, text: bytes) -> None:
    """Put a new file in the place of the old one, in one step. Everybody may read it: collectors are other users."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
