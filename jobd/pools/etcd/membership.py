"""Who is in the pool: steps as in :mod:`jobd.pools.etcd.steps`."""

from __future__ import annotations

from jobd.pools.etcd.codec import decode, encode
from jobd.pools.etcd.keys import Keys
from jobd.pools.etcd.pool_errors import PoolDataError, PoolSchemaError, WorkerNameError
from jobd.pools.etcd.records import SCHEMA, Drain, Member, Schema, Session
from jobd.pools.etcd.transaction import Compare, Delete, Get, KeyValue, Page, Put, Step, Txn, absent, created, unchanged

# ---- the pool


def found_pool(keys: Keys, schema: KeyValue | None, first: Page) -> Txn | None:
    """Begin a pool where there is nothing; None when there is one that can be used.

    Args:
        schema: what is at the pool's ``schema``.
        first: some keys under its prefix, if there are any.

    Raises:
        PoolSchemaError: what is there is of a newer jobd, or of something else.
    """
    if schema is None:
        if first.found:
            raise _foreign(keys)
        return Txn((absent(keys.schema),), (Put(keys.schema, encode(Schema(schema=SCHEMA))),))
    try:
        found = decode(Schema, schema.key, schema.value).schema
    except PoolDataError as exc:
        raise _foreign(keys) from exc
    if found != SCHEMA:
        raise PoolSchemaError(
            f"the pool /{keys.prefix}/ has schema {found}, and this jobd knows {SCHEMA}; use the jobd that wrote it, "
            "or a newer one"
        )
    return None


def _foreign(keys: Keys) -> PoolSchemaError:
    return PoolSchemaError(f"etcd has something under /{keys.prefix}/ that is no pool of jobd; give another prefix")


# ---- a worker


def enter(
    keys: Keys, worker: str, member: Member, session: Session, lease: int, *, was: KeyValue | None, up: KeyValue | None
) -> Txn | None:
    """The next step to a session of one's own; None when it is there.

    A session that another server of this machine has left is deleted first, and its key then made anew: only so does it
    have another epoch.

    Args:
        was: what is at ``m/``.
        up: what is at ``up/``.

    Raises:
        WorkerNameError: another machine has this name.
        PoolDataError: these keys hold something else.
    """
    known = decode(Member, was.key, was.value) if was else None
    if known and known.uid != member.uid:
        raise WorkerNameError(
            f"another machine of the pool has the name {worker!a}; give this one another name, or, if that one never "
            f"comes back and its jobs were forgotten, free its name: etcdctl del {keys.member(worker).decode()} "
            "(docs/pool.md, Taking a machine away)"
        )
    if up is not None:
        present = decode(Session, up.key, up.value)
        if (present.uid, present.instance) == (session.uid, session.instance) and up.lease == lease:
            return None
        return Txn((created(up),), (Delete(up.key),), (Get(up.key),))
    here = Put(keys.session(worker), encode(session), lease)
    when: list[Compare] = [absent(here.key)]
    then: list[Step] = [here]
    if was is None:
        when.append(absent(keys.member(worker)))
    else:
        when.append(unchanged(was))
    if known != member:
        then.append(Put(keys.member(worker), encode(member)))
    return Txn(tuple(when), tuple(then), (Get(here.key),))


def change_session(up: KeyValue, session: Session) -> Txn:
    """Say something else of oneself, in the same session (its epoch stays)."""
    return Txn((created(up),), (Put(up.key, encode(session), up.lease),))


# ---- an operator


def drain(keys: Keys, member: KeyValue, by: str, now: int) -> Txn:
    """No new jobs for a worker; those that it has claimed go on."""
    key = keys.drain(keys.worker_of(member.key))
    return Txn((created(member), absent(key)), (Put(key, encode(Drain(by=by, at=now))),), (Get(key),))


def undrain(keys: Keys, worker: str) -> Txn:
    """It gets new jobs again."""
    return Txn((), (Delete(keys.drain(worker)),))
