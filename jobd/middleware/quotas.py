"""Is it too much? What a principal may ask for at a time, over all its connections."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import structlog

from api import methods
from api.errors import IdentityError, ResourceExhaustedError
from api.identity import Principal, principal_of_der
from api.rpc.server import Handler, ServerCall
from jobd.middleware.draining import LASTING
from jobd.middleware.token_bucket import TokenBucket
from jobd.quota import Quota, QuotaPolicy
from jobd.worker.policy import Caller

log = structlog.get_logger(__name__)

STREAMS: Final = LASTING | {methods.WATCH.path}
"""What may stay open."""
FEW: Final = 64
"""Principals that are remembered without a thought."""
TOO_MANY_CALLS: Final = "TOO_MANY_CALLS"
TOO_MANY_STREAMS: Final = "TOO_MANY_STREAMS"
TOO_MANY_CONNECTIONS: Final = "TOO_MANY_CONNECTIONS"
REASONS: Final = (TOO_MANY_CALLS, TOO_MANY_STREAMS, TOO_MANY_CONNECTIONS)
"""Why something is refused."""
NOBODY: Final = Principal("", frozenset(), "")
"""Whoever has a certificate that names no principal: they can connect, to be told so."""


@dataclass(slots=True)
class _Usage:
    """What a principal has at the moment."""

    bucket: TokenBucket
    streams: int = 0
    connections: int = 0

    def is_as_new(self, now: float) -> bool:
        """Nothing is lost with it."""
        return not (self.streams or self.connections or self.bucket.full_at > now)


@lru_cache(FEW)
def _principal(certificate: bytes) -> Principal:
    try:
        return principal_of_der(certificate)
    except IdentityError:
        return NOBODY


class Quotas:
    """Counts what each principal asks for, and refuses what is beyond its quota.

    A principal that has had nothing for as long as a full bucket takes is as one that never came, and is forgotten.

    Attributes:
        refused: calls and connections that were, by the reason.
    """

    def __init__(self, policy: QuotaPolicy, clock: Callable[[], float] = time.monotonic) -> None:
        self._quota: Callable[[Principal], Quota] = lru_cache(FEW)(lambda p: policy.of(Caller(p.name, p.roles)))
        self._clock = clock
        self._usages: dict[str, _Usage] = {}
        self._forget_at = FEW
        self.refused: Counter[str] = Counter()

    @property
    def principals(self) -> int:
        """How many are remembered."""
        return len(self._usages)

    @property
    def streams(self) -> int:
        """How many calls that last are open."""
        return sum(usage.streams for usage in self._usages.values())

    @contextmanager
    def connection(self, certificate: bytes | None) -> Iterator[bool]:
        """The block is the life of a connection. False: it is one too many of its principal, and has to go.

        Args:
            certificate: its client's, in DER form.
        """
        principal = NOBODY if certificate is None else _principal(certificate)
        usage = self._usage(principal.name, self._clock())
        if usage.connections >= self._quota(principal).connections:
            self.refused[TOO_MANY_CONNECTIONS] += 1
            log.info("connection refused", principal=principal.name, error="too many of this principal")
            yield False
            return
        usage.connections += 1
        try:
            yield True
        finally:
            usage.connections -= 1

    async def middleware(self, call: ServerCall, proceed: Handler) -> None:
        """Let the call through, or refuse it as RESOURCE_EXHAUSTED. It has not begun then: it can be made again."""
        assert call.principal is not None  # authentication lets nobody else through
        quota = self._quota(call.principal)
        usage = self._take(call.principal, quota)
        if call.path not in STREAMS:
            await proceed(call)
            return
        if usage.streams >= quota.streams:
            self.refused[TOO_MANY_STREAMS] += 1
            raise ResourceExhaustedError(
                f"at most {quota.streams:.10g} streams of {call.principal.name} may be open at a time; end one first",
                reason=TOO_MANY_STREAMS,
                metadata={"streams": f"{quota.streams:.10g}"},
            )
        usage.streams += 1
        try:
            await proceed(call)
        finally:
            usage.streams -= 1

    def _take(self, principal: Principal, quota: Quota) -> _Usage:
        """Count a call.

        Raises:
            ResourceExhaustedError: it is one too many, for now.
        """
        now = self._clock()
        usage = self._usage(principal.name, now)
        wait = usage.bucket.take(now, quota.calls_per_second)
        if wait:
            self.refused[TOO_MANY_CALLS] += 1
            raise ResourceExhaustedError(
                f"{principal.name} may make {quota.calls_per_second:.10g} calls a second; try again in {wait:.3g} s",
                reason=TOO_MANY_CALLS,
                metadata={"callsPerSecond": f"{quota.calls_per_second:.10g}"},
                retry_after=wait,
            )
        return usage

    def _usage(self, name: str, now: float) -> _Usage:
        usage = self._usages.get(name)
        if usage is None:
            if len(self._usages) >= self._forget_at:
                self._usages = {n: u for n, u in self._usages.items() if not u.is_as_new(now)}
                self._forget_at = max(FEW, 2 * len(self._usages))
            usage = self._usages[name] = _Usage(TokenBucket(now))
        return usage
