"""Trust while the server runs: files are looked at every 0.4 s, and what they say then holds for all connections.

Looked at, and not announced by inotify: that sees neither what is behind a link in another directory nor a remote file
system, and 0.4 s is soon enough. What has changed is taken when it has stayed as it is for one further look,
so files that are written one after another are taken together, and all or nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final

import structlog
import trio
from cryptography.hazmat.primitives.serialization import Encoding

from api.errors import CredentialsError, IdentityError
from api.identity import principal_of_der
from api.rpc.access import Access, Refusal
from jobd.trust.chain import Chain, chain_of
from jobd.trust.expiry import AGAIN, tell
from jobd.trust.files import Files, Look, Snapshot
from jobd.trust.trust import Trust, load_trust

log = structlog.get_logger(__name__)

INTERVAL: Final = 0.4
"""Seconds between two looks at the files, and at the clock. A change takes two, and has to hold within a second."""
RETRY: Final = 10.0
"""Seconds after which files that could not be used are tried again: time alone can make them good, or a mount."""
_NEVER: Final = datetime.max.replace(tzinfo=UTC)
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)
MAX_TOLD: Final = 64
"""Connections of refused clients that linger to be told so; one more takes the place of the oldest: whoever has a
revoked certificate can keep nobody else out by coming again and again."""
STRANGE: Final = Refusal("CERTIFICATE_UNREADABLE", "your certificate cannot be parsed here: get another")


class _Client:
    """A connection's other end."""

    __slots__ = ("access", "chain", "judge_at", "peer")

    def __init__(self, chain: Chain, peer: str) -> None:
        self.chain = chain
        self.peer = peer
        self.access = Access()
        self.judge_at = _NEVER


@dataclass(frozen=True, slots=True)
class _Failure:
    """Files that could not be used: what they looked like, why, and when to try again."""

    look: Look
    message: str
    retry_at: float


class LiveTrust:
    """What is in force, and who is here because of it.

    Attributes:
        trust: what is in force.
    """

    def __init__(
        self,
        files: Files,
        *,
        demanding: bool,
        told: int = MAX_TOLD,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        interval: float = INTERVAL,
    ) -> None:
        """Read the files. Blocks.

        Args:
            demanding: see :class:`Trust`.
            told: connections that come refused, and linger to be told so.

        Raises:
            CredentialsError: they cannot be used.
        """
        self._files = files
        self._demanding = demanding
        self._most_told = told
        self._now = now
        self._interval = interval
        self._loaded = files.look()  # before they are read: what changes meanwhile is seen as a change
        self._first: Snapshot | None = files.read()
        self.trust = load_trust(files, self._first, now(), demanding=demanding)
        self._failure: _Failure | None = None
        self._retry_at = 0.0
        self._clients: set[_Client] = set()
        self._told: dict[Access, None] = {}  # the oldest first
        self._tell_at = _LONG_AGO

    @property
    def failing(self) -> bool:
        """There are new files, and they cannot be used."""
        return self._failure is not None

    def pin(self) -> None:
        """From now on this process may read less: what it cannot read again stays as it is until the next server."""
        assert self._first is not None
        pinned = self._files.pin(self._first)
        self._first = None  # keys and passphrases are kept no longer than they are needed
        self._loaded = tuple((path, look) for path, look in self._loaded if path not in pinned)
        if pinned:
            log.warning(
                "this server cannot read some files again; 'jobd upgrade' or SIGHUP takes new ones",
                files=[str(path) for path in pinned],
            )

    # ---- clients

    @contextmanager
    def admitted(self, ders: tuple[bytes, ...], peer: str) -> Iterator[Access]:
        """The block is the life of a connection whose client TLS has verified by this chain. Is it let in, and still?

        What was trusted when the handshake began may not be any more.
        """
        try:
            client = _Client(chain_of(ders), peer)
        except ValueError:
            log.info("client refused", peer=peer, reason=STRANGE.reason)
            with self._telling(Access(STRANGE)) as access:
                yield access
            return
        self._judge(client)
        if client.access.refusal:
            with self._telling(client.access) as access:
                yield access
            return
        self._clients.add(client)
        try:
            yield client.access
        finally:
            self._clients.discard(client)

    @contextmanager
    def _telling(self, access: Access) -> Iterator[Access]:
        self._told[access] = None
        if len(self._told) > self._most_told:
            oldest = next(iter(self._told))
            del self._told[oldest]
            oldest.dismiss()
        try:
            yield access
        finally:
            self._told.pop(access, None)

    def _judge(self, client: _Client) -> None:
        if client.access.refusal:
            return
        try:
            refusal = self.trust.judge(client.chain, self._now())
        except Exception as exc:  # no certificate, however strange, ends the server, or is let in
            log.error("a client could not be judged", peer=client.peer, exc_info=exc)
            refusal = STRANGE
        client.judge_at = _NEVER if refusal else self.trust.good_until(client.chain)
        if refusal:
            client.access.refuse(refusal)
            leaf = client.chain.leaf
            try:
                name = principal_of_der(leaf.public_bytes(Encoding.DER)).name
            except IdentityError:
                name = None
            serial = f"{leaf.serial_number:x}"
            log.warning("client refused", peer=client.peer, principal=name, serial=serial, reason=refusal.reason)

    # ---- time and files

    async def run(self) -> None:
        """See to it for as long as the server serves."""
        self._tell_gaps()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_files)
            nursery.start_soon(self._watch_clock)  # not held up by a file system that hangs

    async def _watch_clock(self) -> None:
        # By small steps, not by one sleep until something ends: the clock can be set, and the machine can sleep.
        while True:
            now = self._now()
            if now >= self._tell_at or self._tell_at - now > AGAIN:  # or the clock was wrong, and was put right
                self._tell_at = tell(self.trust.terms, now)
            for client in [client for client in self._clients if client.judge_at <= now]:
                self._judge(client)
            await trio.sleep(self._interval)

    async def _watch_files(self) -> None:
        in_thread = partial(trio.to_thread.run_sync, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))
        last = self._loaded
        while True:
            await trio.sleep(self._interval)
            look = await in_thread(self._files.look)
            settled, last = look == last, look
            if settled and self._is_to_be_tried(look):
                result = await in_thread(self._try, look)
                anew = look != self._loaded
                if isinstance(result, Trust):
                    if anew or result.lists:
                        self._take(result, look)
                elif result and anew:
                    self._keep(result, look)

    def _is_to_be_tried(self, look: Look) -> bool:
        if look == self._loaded:
            if self._failure:
                log.info("the files of certificates are as those in force again")
                self._failure = None
            if not self.trust.gaps or self.trust.lists or trio.current_time() < self._retry_at:
                return False
            # There is no list in force, and it may be a directory that is in the way, or a disk.
            self._retry_at = trio.current_time() + RETRY
            return True
        failure = self._failure
        return failure is None or failure.look != look or trio.current_time() >= failure.retry_at

    def _try(self, look: Look) -> Trust | Exception | None:
        """In a thread: what the files say, or what is wrong with them; None when they have changed meanwhile."""
        result: Trust | Exception
        try:
            now, snapshot = self._now(), self._files.read()
            result = load_trust(self._files, snapshot, now, demanding=self._demanding, before=self.trust)
        except Exception as exc:  # noqa: BLE001 # no file, however strange, ends a server that has good ones
            result = exc
        return result if self._files.look() == look else None

    def _take(self, trust: Trust, look: Look) -> None:
        changed = [str(path) for path, digest in trust.digests.items() if digest != self.trust.digests.get(path)]
        self.trust, self._loaded, self._failure = trust, look, None
        log.info("new certificates are in force", changed=changed)
        self._tell_gaps()
        self._tell_at = _LONG_AGO
        for client in list(self._clients):
            self._judge(client)

    def _keep(self, error: Exception, look: Look) -> None:
        known = self._failure and (self._failure.look, self._failure.message) == (look, str(error))
        self._failure = _Failure(look, str(error), trio.current_time() + RETRY)
        if not known:
            bug = None if isinstance(error, CredentialsError) else error
            log.error("new certificates cannot be used, the old stay in force", error=str(error), exc_info=bug)

    def _tell_gaps(self) -> None:
        for gap in self.trust.gaps:
            log.error("it is not known who is revoked, and nobody is kept out for that", error=gap)
