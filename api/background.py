"""A nursery for tasks that serve a block of code."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def background_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks end with the block, and out of which the block's own exception comes bare.

    A plain nursery wraps everything in an ``ExceptionGroup``, so a caller could not write ``except RpcError``
    around ``async with JobClient.connect(…)``. Errors of the background tasks still come as a group.
    """
    from_block: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as exc:  # Cancelled too: only noted here, and raised on
                from_block = exc
                raise
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:  # the nursery wraps whatever the block raised, Cancelled too
        if from_block is not None and group.exceptions == (from_block,):
            raise from_block from from_block.__cause__
        raise
