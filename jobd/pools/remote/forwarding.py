"""Handing a call on to the machine that has the job, and its answers back, at the pace of whoever called.

Messages pass as they are, a status with its reason and details. Nothing is held but the message on its way: what the
caller does not take stays with the machine that has it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import betterproto
import structlog
import trio

from api import messages as m
from api import methods
from api.acting import Acting
from api.acting import metadata_of as acting_metadata
from api.background import background_nursery
from api.errors import PermissionDeniedError, RpcError, UnauthenticatedError, UnavailableError
from api.identity import Role
from api.rpc.channel import Answers, Channel
from api.rpc.server import ServerCall
from api.trace import metadata_of
from jobd.pools.remote.links import Links, Machine, unreachable

log = structlog.get_logger(__name__)

LASTING: Final = frozenset({methods.STREAM.path, methods.ATTACH.path})
"""What gives answers for as long as a job runs."""


async def forward(call: ServerCall, links: Links, machine: Machine, request: betterproto.Message) -> None:
    """Hand on a call that has one request, and its answers.

    Raises:
        RpcError: as the machine answered; UnavailableError (WORKER_UNREACHABLE) when it did not.
    """
    assert call.method is not None  # authorization lets no other through
    async with acting(call, links, machine) as channel:
        timeout = None if call.deadline is None else max(call.deadline - trio.current_time(), 0.0)
        async with channel.call(call.method, request, timeout=timeout) as answers:
            await _hand_back(call, answers)


async def forward_conversation(call: ServerCall, links: Links, machine: Machine, first: m.AttachRequest) -> None:
    """Hand on a call in which both sides speak.

    Args:
        first: what the caller said already.

    Raises:
        RpcError: as for :func:`forward`.
    """
    wrong: RpcError | None = None
    async with acting(call, links, machine) as channel, channel.converse(methods.ATTACH) as conversation:
        await conversation.send(first)
        async with background_nursery() as nursery:

            async def hand_on() -> None:
                nonlocal wrong
                try:
                    while (request := await call.receive_next()) is not None:
                        assert isinstance(request, m.AttachRequest)
                        with contextlib.suppress(RpcError):  # the answers end with it, and say why
                            await conversation.send(request)
                    conversation.end()
                except RpcError as exc:  # the caller's message was none
                    wrong = exc
                    nursery.cancel_scope.cancel()

            nursery.start_soon(hand_on)
            await _hand_back(call, conversation)
    if wrong:
        raise wrong


async def _hand_back(call: ServerCall, answers: Answers[Any]) -> None:
    while (parts := await answers.receive_parts()) is not None:
        await call.send_all([parts])


@asynccontextmanager
async def acting(call: ServerCall, links: Links, machine: Machine) -> AsyncIterator[Channel]:
    """A connection on which we act for whoever called. What goes wrong between us and the machine is not told as if
    it were about the caller."""
    assert call.principal is not None  # as above
    who = Acting(call.principal.name, call.principal.roles - {Role.BROKER})
    async with links.to(machine, lasting=call.path in LASTING) as channel:
        try:
            yield channel.saying((*acting_metadata(who), *(metadata_of(call.trace) if call.trace else ())))
        except RpcError as exc:
            if not _is_about_us(exc):
                raise
            log.warning("a call could not be handed on", worker=machine.name, code=exc.code.name, error=exc.message)
            raise unreachable(machine) from exc


def _is_about_us(exc: RpcError) -> bool:
    if isinstance(exc, PermissionDeniedError):
        return exc.metadata.get("needed") == Role.BROKER
    # What the machine itself says has a reason; without one, it is what became of the connection.
    return isinstance(exc, UnauthenticatedError) or (isinstance(exc, UnavailableError) and not exc.reason)
