"""Where a pool keeps what, in etcd: every key begins with ``/PREFIX/``.

=========================  ======================================================================================
``schema``                 the version of all this
``frozen``                 nothing is placed or claimed: etcd was restored, and claims may be missing
``m/<M>``                  a member: its identity, and where it is
``up/<M>``                 its session, which has a lease; the revision that made it is the session's epoch
``drain/<M>``              it gets no new jobs
``req/<who>/<id>``         the job that a principal's request_id stands for
``spec/<J>``               what a job is to run; never changed
``s/<J>``                  what of that only the worker needs, until it has it: secrets, given stdin
``j/<J>``                  how a job is; made with the job, so the revision that made it is the order of jobs
``q/<J>``                  it waits
``a/<M>/<J>``              it is assigned to a worker, or the worker has it
``c/<J>``, ``c/<J>/<n>``   who has claimed it (for its nth rerun); made once, and there for as long as the job is
``e/<ended_at>/<J>``       it has ended: the order in which records leave
=========================  ======================================================================================

A prefix is one word, so that no pool lies within another. What peers have chosen (principals, request ids) is written
so that it cannot leave its place in a key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from jobd.pools.etcd.pool_errors import PoolDataError, PoolNameError

_PREFIX: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_WORKER: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_JOB: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME: Final = 20
"""Digits of a time in a key, so that the order of keys is that of times."""
MAX_PART: Final = 2048
"""Bytes that a principal, or a request_id, may have in a key."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one pool.

    Raises:
        PoolNameError: the prefix, or (in the methods) a worker's name, is none.
    """

    prefix: str

    def __post_init__(self) -> None:
        if not _PREFIX.fullmatch(self.prefix):
            raise PoolNameError(
                f"{self.prefix[:80]!a} is not a pool's prefix; it is one word of at most 64 letters, digits, '.', '_' "
                "and '-', like jobd"
            )

    def _key(self, *parts: str) -> bytes:
        return "/".join(("", self.prefix, *parts)).encode()

    # ---- one key

    @property
    def schema(self) -> bytes:
        return self._key("schema")

    @property
    def frozen(self) -> bytes:
        return self._key("frozen")

    def member(self, worker: str) -> bytes:
        return self._key("m", _worker(worker))

    def session(self, worker: str) -> bytes:
        return self._key("up", _worker(worker))

    def drain(self, worker: str) -> bytes:
        return self._key("drain", _worker(worker))

    def request(self, principal: str, request_id: str) -> bytes:
        return self._key("req", _part(principal), _part(request_id))

    def spec(self, job: str) -> bytes:
        return self._key("spec", _job(job))

    def private(self, job: str) -> bytes:
        return self._key("s", _job(job))

    def state(self, job: str) -> bytes:
        return self._key("j", _job(job))

    def queued(self, job: str) -> bytes:
        return self._key("q", _job(job))

    def assigned(self, worker: str, job: str) -> bytes:
        return self._key("a", _worker(worker), _job(job))

    def claim(self, job: str, attempt: int = 0) -> bytes:
        return self._key("c", _job(job), *([str(attempt)] if attempt else []))

    def ended(self, job: str, at: int) -> bytes:
        """
        Args:
            at: when, in nanoseconds since the epoch.
        """
        return self._key("e", f"{min(max(at, 0), 2**63):0{_TIME}}", _job(job))

    # ---- many: what to list, and to watch

    @property
    def everything(self) -> bytes:
        return self._key("")

    @property
    def members(self) -> bytes:
        return self._key("m", "")

    @property
    def sessions(self) -> bytes:
        return self._key("up", "")

    @property
    def drains(self) -> bytes:
        return self._key("drain", "")

    @property
    def states(self) -> bytes:
        return self._key("j", "")

    @property
    def queue(self) -> bytes:
        return self._key("q", "")

    @property
    def ends(self) -> bytes:
        return self._key("e", "")

    def assignments(self, worker: str = "") -> bytes:
        """Those of one worker, or of all."""
        return self._key("a", _worker(worker), "") if worker else self._key("a", "")

    # ---- back

    def worker_of(self, key: bytes) -> str:
        """The worker of ``m/``, ``up/``, ``drain/`` and ``a/`` keys.

        Raises:
            PoolDataError: it has none; here and below.
        """
        kind, *parts = self._parts(key)
        wanted = {"m": 1, "up": 1, "drain": 1, "a": 2}.get(kind)
        if len(parts) != wanted or not _WORKER.fullmatch(parts[0]):
            raise PoolDataError(key, "no worker's name is in the key")
        return parts[0]

    def job_of(self, key: bytes) -> str:
        """The job of ``spec/``, ``s/``, ``j/``, ``q/``, ``a/``, ``c/`` and ``e/`` keys."""
        kind, *parts = self._parts(key)
        place = {"spec": 0, "s": 0, "j": 0, "q": 0, "c": 0, "a": 1, "e": 1}.get(kind, len(parts))
        if place >= len(parts) or not _JOB.fullmatch(parts[place]) or (kind != "c" and len(parts) != place + 1):
            raise PoolDataError(key, "no job's id is in the key")
        return parts[place]

    def ended_at(self, key: bytes) -> int:
        """The time of an ``e/`` key."""
        kind, *parts = self._parts(key)
        if kind != "e" or len(parts) != 2 or not (len(parts[0]) == _TIME and parts[0].isascii() and parts[0].isdigit()):
            raise PoolDataError(key, "no time is in the key")
        return int(parts[0])

    def freeze_of(self, key: bytes) -> bytes:
        """The key itself, if it is ``frozen``, and none that only begins so."""
        if key != self.frozen:
            raise PoolDataError(key, "it is no key of a pool")
        return key

    def _parts(self, key: bytes) -> list[str]:
        if not key.startswith(self.everything) or not key.isascii():
            raise PoolDataError(key, "it is none of this pool")
        return key[len(self.everything) :].decode().split("/")


def worker_name(name: str) -> str:
    """A name that a worker can have.

    Raises:
        PoolNameError: it cannot.
    """
    if not _WORKER.fullmatch(name):
        raise PoolNameError(
            f"{name[:80]!a} is not a worker's name; it is at most 63 letters, digits, '.', '_' and '-', with a letter "
            "or digit at both ends"
        )
    return name


_worker = worker_name


def _job(job: str) -> str:
    if not _JOB.fullmatch(job):
        raise ValueError(f"{job[:80]!a} is not a job's id")
    return job


def _part(text: str) -> str:
    written = quote(text, safe="", errors="surrogatepass")
    if not text or len(written) > MAX_PART:
        raise ValueError(f"{text[:80]!a} is empty, or too long for a key")
    return written
