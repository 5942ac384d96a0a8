"""Attach over the wire, by a client of nobody's library."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import betterproto
import trio

from api import methods
from api.address import parse_address
from api.attachment import Attachment
from api.errors import (
    RpcError,
)
from api.messages import (
    AttachRequest,
    AttachResponse,
    AttachStart,
)
from api.rpc.channel import Conversation, open_channel
from tests.support.patience import patient
from tests.support.pki import TestPki

SECONDS = patient(30)
Calls = Conversation[AttachRequest, AttachResponse]


@asynccontextmanager
async def conversation(pki: TestPki, server: str, *requests: AttachRequest) -> AsyncIterator[Calls]:
    """A call of nobody's library, with its first requests."""
    with trio.fail_after(SECONDS):
        async with (
            open_channel(*parse_address(server), pki.context("alice")) as channel,
            channel.converse(methods.ATTACH) as call,
        ):
            for request in requests:
                await call.send(request)
            yield call


async def error_of(call: Calls) -> RpcError:
    """How a call ends that is refused sooner or later."""
    try:
        while await call.receive():
            pass
    except RpcError as exc:
        return exc
    raise AssertionError("the call ended well")


async def next_event(call: Calls) -> Any:
    """The next event, None at the end."""
    answer = await call.receive()
    return None if answer is None else betterproto.which_one_of(answer, "event")[1]


def starting(job_id: str, **fields: Any) -> AttachRequest:
    return AttachRequest(start=AttachStart(job_id=job_id, **fields))


async def all_of(attachment: Attachment) -> bytes:
    return b"".join([chunk.data async for chunk in attachment])
