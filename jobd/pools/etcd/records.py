"""What the keys of a pool hold (:mod:`jobd.pools.etcd.keys` says which)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from jobd.pools.etcd.codec import Record, choice, facts, flag, number, pairs, text, words
from jobd.worker.job import MAX_LABEL, MAX_LABELS

SCHEMA: Final = 1
"""The version of keys, records and steps. One that is newer is refused."""
MAX_PRINCIPAL: Final = 256
KIB: Final = 1024


class Phase(enum.StrEnum):
    """How far a job has come in the pool. What it does on its worker is that worker's to say."""

    PENDING = "pending"
    ASSIGNED = "assigned"
    CLAIMED = "claimed"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema(Record):
    """``schema``."""

    schema: int = number(required=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member(Record):
    """``m/<M>``: a machine that has been here.

    Attributes:
        uid: what its jobd made up when it first began, and keeps in its state directory. The name is that machine's.
        address: where other jobd reach it.
    """

    uid: str = text(64, required=True)
    address: str = text(300, required=True)
    version: str = text(64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session(Record):
    """``up/<M>``: a worker is here, for as long as the key's lease.

    Attributes:
        uid: as in :class:`Member`.
        instance: made up by the server that wrote it: by it, it knows its own session again.
        slots: how many jobs it has at a time.
        own: how many it has that the pool has not assigned to it: from before it was in the pool, or before a restore.
        containment: what holds its jobs' processes together, for people.
        limits: the names of the limits that it can hold.
        isolation: the names of what jobs can be isolated with.
        seals: names of the keys that it opens what is private with; without any, it takes only what is not sealed.
        accepting: it takes new jobs (its disk may be full).
    """

    MOST: ClassVar[int] = 16 * KIB

    uid: str = text(64, required=True)
    instance: str = text(64, required=True)
    address: str = text(300, required=True)
    slots: int = number(required=True)
    labels: Mapping[str, str] = pairs(MAX_LABELS, MAX_LABEL)
    version: str = text(64)
    containment: str = text(256)
    limits: tuple[str, ...] = words(64, 64)
    isolation: tuple[str, ...] = words(64, 64)
    seals: tuple[str, ...] = words(16, 64)
    accepting: bool = flag(default=True)
    own: int = number()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain(Record):
    """``drain/<M>``: who asked for it, and when (nanoseconds since the epoch, as all times here)."""

    by: str = text(MAX_PRINCIPAL)
    at: int = number()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Record):
    """``req/<who>/<id>``: the job that a request became.

    Attributes:
        hash: of what was asked for, but for secrets.
    """

    job: str = text(36, required=True)
    hash: str = text(64, required=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order(Record):
    """``spec/<J>``: what a job is, from before it runs until its record goes.

    Attributes:
        spec: as :func:`jobd.worker.facts.spec_facts`, without what is :class:`Private`.
        principal, roles: who asked for it.
        retry_lost: how often it may be run again when it is lost, which can be twice at the same time.
        private: there is something private.
        seal: the name of the key that it is sealed with; "" when it is not.
        stdin_bytes: how much given stdin there is.
    """

    MOST: ClassVar[int] = 256 * KIB

    spec: Mapping[str, Any] = facts(required=True)
    principal: str = text(MAX_PRINCIPAL, required=True)
    created_at: int = number(required=True)
    roles: tuple[str, ...] = words(32, 64)
    request_id: str = text(128)
    retry_lost: int = number()
    private: bool = flag(default=False)
    seal: str = text(64)
    stdin_bytes: int = number()


@dataclass(frozen=True, slots=True, kw_only=True)
class Private(Record):
    """``s/<J>``, before it is sealed: what the worker needs, and nobody else.

    Attributes:
        secret_env: with its values.
        stdin_data: in base64.
    """

    MOST: ClassVar[int] = 256 * KIB

    secret_env: Mapping[str, str] = pairs(1000, 128 * KIB)
    stdin_data: str = text(256 * KIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState(Record):
    """``j/<J>``.

    Attributes:
        by: who asked for it.
        attempt: 0 for the first; it counts what was asked for with ``retry_lost``.
        worker, uid: to whom it is assigned, or who has it.
        unreachable: since when its worker has no session; 0 while it has one.
        job: when it has ended: all of it but its spec (:func:`jobd.worker.facts.facts_of`).
    """

    MOST: ClassVar[int] = 64 * KIB

    phase: str = choice(*Phase)
    by: str = text(MAX_PRINCIPAL)
    attempt: int = number()
    worker: str = text(63)
    uid: str = text(64)
    unreachable: int = number()
    job: Mapping[str, Any] = facts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued(Record):
    """``q/<J>``.

    Attributes:
        order: its place, when it is there again; 0 for the revision that made the key.
    """

    order: int = number()


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment(Record):
    """``a/<M>/<J>``."""

    attempt: int = number()


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(Record):
    """``c/<J>``.

    Attributes:
        worker, uid: whose it is.
        epoch: of the session in which it was claimed.
        intent: which durable intent of that worker it is the claim of.
    """

    worker: str = text(63, required=True)
    uid: str = text(64, required=True)
    epoch: int = number(required=True)
    intent: str = text(64, required=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(Record):
    """``e/<ended_at>/<J>``: what else there is of a job that has ended, to be deleted with it."""

    principal: str = text(MAX_PRINCIPAL)
    request_id: str = text(128)
    attempts: int = number()
    worker: str = text(63)
